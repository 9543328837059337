"""Differences in the look of an image region from a reference: brightness, contrast, saturation, cast, sharpness.

No reward is made of these numbers, so that training cannot win them: they tell whether a reward was won by other means
than the edit that was asked for. All are taken of gamma-encoded values in [0, 1], over the pixels of the region alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the luma Y (ITU-R BT.601)."""
SIGNED = ("brightness", "contrast", "saturation", "sharpness")
"""Differences that have a direction: above zero is brighter, harder, more colourful, sharper than the reference."""
UNSIGNED = ("change", "cast", "cast_share")
"""Differences that are at least zero, and zero for an equal region."""


def appearance(
    images: NDArray[np.uint8], reference: NDArray[np.uint8], region: NDArray[np.bool_]
) -> Mapping[str, NDArray[np.float64]]:
    """How each image differs from the reference inside `region`, by name, float64 [B] each.

    `change`      mean absolute difference, 0..1
    `brightness`  difference of the mean luma Y, -1..1
    `contrast`    difference of the standard deviation of Y, -0.5..0.5
    `saturation`  difference of the mean of max(R, G, B) - min(R, G, B), -1..1
    `sharpness`   difference of the mean |Y(p) - Y(q)| over neighbours p, q of the region, -1..1
    `cast`        length of the mean colour difference (R, G, B) less its grey part, 0..0.82
    `cast_share`  squared mean difference over mean squared difference, over R, G and B: the share of the error that one
                  colour added to the whole region explains, 0..1; 0 where there is no error

    Args:
        images: uint8 [B, H, W, 3].
        reference: uint8 [H, W, 3].
        region: bool [H, W], True = compared.

    Raises:
        ValueError: for mismatched shapes, another dtype, or a region without a pixel.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != reference.shape or images.shape[3] != 3:
        raise ValueError(
            f"expected images uint8 [B, H, W, 3] and a reference of their size, got {images.dtype} "
            f"{list(images.shape)} and {list(reference.shape)}"
        )
    if region.dtype != np.bool_ or region.shape != reference.shape[:2] or not region.any():
        raise ValueError(
            f"expected a region bool {list(reference.shape[:2])} with at least one pixel, got "
            f"{region.dtype} {list(region.shape)} with {int(np.count_nonzero(region))}"
        )
    places = np.flatnonzero(region)
    across, down = region[:, 1:] & region[:, :-1], region[1:] & region[:-1]
    before = _look(reference, places, across, down)
    wanted = reference.reshape(-1, 3)[places].astype(np.float32)
    rows = []
    for image in images:  # one at a time: a group of megapixel images would take hundreds of megabytes
        after = _look(image, places, across, down)
        error = (image.reshape(-1, 3)[places] - wanted) / 255
        mean = error.mean(axis=0, dtype=np.float64)
        square = float(np.square(error).mean(axis=0, dtype=np.float64).sum())
        rows.append(
            {
                "change": float(np.abs(error).mean(dtype=np.float64)),
                **{name: after[name] - before[name] for name in SIGNED},
                "cast": float(np.linalg.norm(mean - mean.mean())),
                "cast_share": float(np.square(mean).sum()) / square if square > 0 else 0.0,
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _look(
    image: NDArray[np.uint8], places: NDArray[np.intp], across: NDArray[np.bool_], down: NDArray[np.bool_]
) -> dict[str, float]:
    red, green, blue = (image[..., channel] for channel in range(3))
    luma = image.astype(np.float32) @ (LUMA / 255)
    colour = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    inside = luma.reshape(-1)[places]
    steps = np.concatenate([np.abs(np.diff(luma, axis=1))[across], np.abs(np.diff(luma, axis=0))[down]])
    return {
        "brightness": float(inside.mean(dtype=np.float64)),
        "contrast": float(inside.std(dtype=np.float64)),
        "saturation": float(colour.reshape(-1)[places].mean(dtype=np.float64)) / 255,
        "sharpness": float(steps.mean(dtype=np.float64)) if steps.size else 0.0,
    }
