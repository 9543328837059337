"""A distance over several scales: fine texture, edges and large areas count alike, as they do for an eye.

It stands where learnt distances such as LPIPS would: those need the weights of a network, which no package carries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 5
"""At most as many scales, each half as large as the one before."""
MIN_SIDE = 8
"""A level has at least so many pixels a side."""
_TAPS = np.array([1, 4, 6, 4, 1], np.float32) / 16
"""Binomial filter of Burt and Adelson (1983)."""


def pyramid_distance(image: NDArray[np.uint8], target: NDArray[np.uint8], region: NDArray[np.bool_]) -> float:
    """Distance of two images uint8 [H, W, 3] inside `region` bool [H, W], 0 for equal ones, about 0.5 at most.

    The region of `image` is put into `target`, so that pixels outside it play no part. Both are taken apart into a
    Laplacian pyramid (Burt and Adelson 1983) of at most `LEVELS` levels; the distance is the mean over levels of the
    sum of absolute differences, each level as large as it is, over three times the level's share of the region's
    pixels.

    Raises:
        ValueError: for mismatched shapes, another dtype, or a region without a pixel.
    """
    if image.dtype != np.uint8 or target.dtype != np.uint8 or image.shape != target.shape or image.shape[2:] != (3,):
        raise ValueError(
            f"expected two images uint8 [H, W, 3] of one size, got {image.dtype} {list(image.shape)} and "
            f"{target.dtype} {list(target.shape)}"
        )
    if region.dtype != np.bool_ or region.shape != image.shape[:2] or not region.any():
        raise ValueError(
            f"expected a region bool {list(image.shape[:2])} with at least one pixel, got "
            f"{region.dtype} {list(region.shape)} with {int(np.count_nonzero(region))}"
        )
    # The pyramid is linear: that of the difference is the difference of the pyramids.
    difference = image.astype(np.float32) - target.astype(np.float32)
    rest = difference * region[..., None].astype(np.float32) / np.float32(255)
    share, levels = float(region.mean()), list[float]()
    while len(levels) < LEVELS - 1 and min(rest.shape[:2]) >= 2 * MIN_SIDE:
        smaller = _smooth(rest)[::2, ::2]
        levels.append(float(np.abs(rest - _enlarged(smaller, rest.shape)).mean(dtype=np.float64)))
        rest = smaller
    levels.append(float(np.abs(rest).mean(dtype=np.float64)))
    return sum(levels) / len(levels) / share


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W, 3] under the binomial filter, reflected borders, same size."""
    for axis in (0, 1):
        size = image.shape[axis]
        padded = np.pad(image, [(2, 2) if axis == one else (0, 0) for one in range(3)], mode="reflect")
        image = np.sum(
            [tap * padded.take(range(place, place + size), axis=axis) for place, tap in enumerate(_TAPS)],
            axis=0,
            dtype=np.float32,
        )
    return image


def _enlarged(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Twice as large: between zeros, smoothed, four times as strong."""
    large = np.zeros(shape, np.float32)
    large[::2, ::2] = image
    return 4 * _smooth(large)
