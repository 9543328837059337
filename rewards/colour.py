"""Colour difference as people see it: CIE Lab and its Euclidean distance (Delta E, CIE 1976)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
"""Linear sRGB to XYZ (ITU-R BT.709 primaries, D65)."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
"""XYZ of D65, 2 degree observer."""
_LINEAR = np.array(
    [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.arange(256) / 255]
)
"""Linear light of each 8-bit sRGB value (IEC 61966-2-1)."""


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE Lab [..., 3] of sRGB pixels uint8 [..., 3]: L 0..100, a and b about -110..100; grey has a = b = 0."""
    ratio = _LINEAR[pixels] @ _TO_XYZ.T / _WHITE
    cube = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = cube[..., 0], cube[..., 1], cube[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e(image: NDArray[np.uint8], target: NDArray[np.uint8], region: NDArray[np.bool_]) -> float:
    """Mean CIE 1976 colour difference of two images uint8 [H, W, 3] over `region` bool [H, W]: 0 for equal ones, about
    2.3 where a difference begins to be seen, 100 from black to white.

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
    return float(np.linalg.norm(lab(image[region]) - lab(target[region]), axis=-1).mean())
