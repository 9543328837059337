"""Images of a gallery: mask overlays, heat maps, and PNG data URIs. Pure, on uint8 arrays."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from editing.task import Image, PixelMask

MAX_SIDE = 384
"""Larger images are shown at this longer side, so that a page of photographs stays small enough to send."""

CHANGE_SCALE = 0.25
"""Mean absolute difference of the channels (images in [0, 1]) that is shown as full heat."""

ACCENT = (236, 72, 153)
"""Outline of the edit region: a pink that neither the benchmark's objects nor skies and meadows have."""

# Dark violet over red to pale yellow, rising evenly in lightness, so that it also reads in gray.
_HEAT = np.array(
    [[8, 6, 26], [66, 15, 98], [142, 36, 104], [212, 70, 71], [248, 141, 42], [252, 216, 104], [252, 255, 206]],
    dtype=np.float64,
)


def shrink(image: Image, longest: int = MAX_SIDE) -> Image:
    """uint8 [h, w, 3] with max(h, w) <= longest, by Lanczos; the same array when it fits already."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PIL.fromarray(image).resize(size, PIL.Resampling.LANCZOS))


def data_uri(image: Image) -> str:
    """`data:image/png;base64,...` of a uint8 image [H, W, 3]."""
    buffer = io.BytesIO()
    PIL.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def heat_colours(values: NDArray[np.floating]) -> Image:
    """uint8 [H, W, 3] of values [H, W], 0 dark to 1 bright; values outside are clipped."""
    place = np.clip(np.asarray(values, dtype=np.float64), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    heat: Image = (_HEAT[low] * (1 - part) + _HEAT[low + 1] * part).round().astype(np.uint8)
    return heat


def outline(mask: PixelMask) -> PixelMask:
    """bool [H, W]: the pixels of the mask that touch its outside (not the image's border)."""
    around = np.pad(mask, 1, mode="edge")
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge: PixelMask = mask & ~inner
    return edge


def mask_overlay(image: Image, mask: PixelMask) -> Image:
    """The image with everything outside the edit mask faded to gray, and the mask's outline drawn."""
    gray = image.astype(np.float64).mean(axis=-1, keepdims=True)
    faded = 0.45 * gray + 0.55 * 200
    shown = np.where(mask[..., None], image, faded).round().astype(np.uint8)
    shown[outline(mask)] = ACCENT
    return shown


def change_map(edited: Image, source: Image, mask: PixelMask) -> Image:
    """Where and how much `edited` differs from `source`, with the mask's outline on top.

    The heat is the mean absolute difference of the channels, full at `CHANGE_SCALE`.
    """
    difference = np.abs(edited.astype(np.float64) - source.astype(np.float64)).mean(axis=-1) / 255
    shown = heat_colours(difference / CHANGE_SCALE)
    shown[outline(mask)] = ACCENT
    return shown


def attention_overlay(image: Image, attention: NDArray[np.floating], mask: PixelMask) -> Image:
    """The attention of the text over the token grid [h, w], laid over the image; the mask is outlined.

    Scaled to its own maximum: the map shows where the text looks, not how strongly.
    """
    height, width = image.shape[:2]
    peak = float(attention.max())
    grid = PIL.fromarray(np.asarray(attention / peak if peak > 0 else attention, dtype=np.float32))
    values = np.clip(np.asarray(grid.resize((width, height), PIL.Resampling.BICUBIC), dtype=np.float64), 0, 1)
    gray = np.repeat(image.astype(np.float64).mean(axis=-1, keepdims=True), 3, axis=-1)
    weight = (0.30 + 0.60 * values)[..., None]
    shown: Image = ((1 - weight) * gray + weight * heat_colours(values)).round().astype(np.uint8)
    shown[outline(mask)] = ACCENT
    return shown
