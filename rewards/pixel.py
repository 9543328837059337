"""PSNR and SSIM over a region of the image: what must not change, and what should have become the target.

The region is exact: pixels outside it have no influence whatever, not even through SSIM's window.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

PSNR_CAP = 60.0
"""dB. Identical regions have infinite PSNR; 60 dB is a mean error of a quarter of an 8-bit step."""

_WINDOW = 11
_REACH = _WINDOW // 2
_WINDOW_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_LEAST_ROWS = 64
_CACHE = 2**18
"""Numbers of float64 that a core's cache holds beside a few more maps of that size: 2 MiB."""

Pixels = Tensor | NDArray[np.uint8] | NDArray[np.floating]
"""uint8 in 0..255, or floating point in [0, 1]."""
Region = Tensor | NDArray[np.bool_]


class RegionError(ValueError):
    """The region to be measured has no pixel, so there is no value to return."""


def background_psnr(edited: Pixels, source: Pixels, edit_mask: Region) -> Tensor:
    """PSNR in dB [B] of each edited image to the source outside the edit mask, at most `PSNR_CAP`.

    Args:
        edited: [B, H, W, 3].
        source: [H, W, 3].
        edit_mask: bool [H, W], True = editable; the pixels where it is False are measured.

    Returns:
        float32 [B] on the CPU or the device of `edited`.

    Raises:
        RegionError: when the mask covers the whole image.
        ValueError: for mismatched shapes, dtypes or ranges.
    """
    return region_psnr(edited, source, ~_bool_mask(edit_mask, "edit_mask"))


def region_psnr(images: Pixels, target: Pixels, region: Region) -> Tensor:
    """PSNR in dB [B] of each image to the target inside `region`, range 1, at most `PSNR_CAP`.

    The mean square is over channels *and* pixels of the region (dividing by pixels alone reads 4.77 dB too
    low).

    Args:
        images: [B, H, W, 3].
        target: [H, W, 3].
        region: bool [H, W], True = measured.

    Returns:
        float32 [B]; computed in float64.

    Raises:
        RegionError: when the region is empty.
        ValueError: for mismatched shapes, dtypes or ranges.
    """
    pixels, wanted, inside = _checked(images, target, region)
    places = inside.flatten().nonzero()[:, 0]

    def kept(image: Tensor, some: Tensor) -> Tensor:
        """[n, 3]: some pixels of the region (several times faster than indexing with the mask)."""
        return _unit_range(image.reshape(-1, 3).index_select(0, some))

    errors = pixels.new_zeros(len(pixels), dtype=torch.float64)
    # Piece by piece: float64 of all pixels of large images would take hundreds of megabytes.
    for some in places.split(_CACHE):
        expected = kept(wanted, some)
        for number, image in enumerate(pixels):
            errors[number] += (kept(image, some) - expected).square_().sum()
    errors /= 3 * len(places)
    floor = 10 ** (-PSNR_CAP / 10)
    return (-10 * errors.clamp(min=floor).log10()).float()


def background_ssim(edited: Pixels, source: Pixels, edit_mask: Region) -> Tensor:
    """SSIM [B] of each edited image to the source outside the edit mask, in [-1, 1].

    Arguments, result and errors as `background_psnr`; see `region_ssim`.
    """
    return region_ssim(edited, source, ~_bool_mask(edit_mask, "edit_mask"))


def region_ssim(images: Pixels, target: Pixels, region: Region) -> Tensor:
    """SSIM [B] of each image to the target, averaged over the region's pixels and the channels, in [-1, 1].

    Window 11x11 Gaussian with sigma 1.5, K1 = .01, K2 = .03, range 1, reflected borders: with every pixel in
    the region it equals torchmetrics' default. Otherwise the moments are taken over the region's pixels in
    the window alone, that is, divided by the Gaussian-filtered region (a plain window count would shrink
    them).

    Args:
        images: [B, H, W, 3], H and W at least 6.
        target: [H, W, 3].
        region: bool [H, W], True = measured.

    Returns:
        float32 [B]; computed in float64.

    Raises:
        RegionError: when the region is empty.
        ValueError: for mismatched shapes, dtypes or ranges, or images smaller than the window's reach.
    """
    pixels, wanted, inside = _checked(images, target, region)
    if min(inside.shape) <= _REACH:
        raise ValueError(f"SSIM needs images of at least {_REACH + 1} pixels a side; got {list(inside.shape)}.")
    totals = pixels.new_zeros(len(pixels), dtype=torch.float64)
    height, width = inside.shape
    together = min(3, max(1, _CACHE // inside.numel()))  # as many channels as stay in a core's cache
    rows = max(_LEAST_ROWS, _CACHE // width)  # so that a large image costs no more memory than a small one
    for top in range(0, height, rows):
        strip = _with_borders(top, min(top + rows, height), height).to(pixels.device)
        weight = inside[strip].double()
        for first in range(0, 3, together):
            channels = slice(first, first + together)
            totals += _ssim_sums(pixels, wanted, strip, weight, channels)
    return (totals / (3 * inside.sum())).float()


def _ssim_sums(images: Tensor, target: Tensor, strip: Tensor, weight: Tensor, channels: slice) -> Tensor:
    """Sums [B] of SSIM over channels and the region's pixels of a strip.

    Args:
        images: [B, H, W, 3].
        target: [H, W, 3].
        strip: rows of the strip with those that the window reaches above and below.
        weight: float64 [rows, W], the region there.
        channels: which.
    """
    # Windows without a pixel of the region have sums of exactly 0; whatever they are divided by, they have no weight.
    scale = 1 / _smooth(weight[None]).clamp_(min=torch.finfo(weight.dtype).tiny)

    def local_mean(values: Tensor) -> Tensor:
        """[K, rows, W] -> [K, rows of the strip, W]: means under the window and the region."""
        return _smooth(values * weight).mul_(scale)

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = local_mean(values)
        return mean, (local_mean(values.square()) - mean.square()).clamp_(min=0)

    sums = images.new_zeros(len(images), dtype=torch.float64)
    y = _planes(target, strip, channels)
    mean_y, var_y = moments(y)
    luminance_y, contrast_y = mean_y.square() + _C1, var_y + _C2
    counted = weight[_REACH:-_REACH]
    for number, image in enumerate(images):
        x = _planes(image, strip, channels)
        mean_x, var_x = moments(x)
        product = mean_x * mean_y
        covariance = local_mean(x * y) - product
        ssim = product.mul_(2).add_(_C1) * covariance.mul_(2).add_(_C2)
        ssim /= mean_x.square_().add_(luminance_y) * var_x.add_(contrast_y)
        sums[number] = (ssim * counted).sum()
    return sums


def _with_borders(top: int, bottom: int, height: int) -> Tensor:
    """The rows top..bottom and `_REACH` more on either side, reflected at the image's borders."""
    rows = torch.arange(top - _REACH, bottom + _REACH).abs()
    return torch.where(rows < height, rows, 2 * (height - 1) - rows)


def _planes(image: Tensor, rows: Tensor, channels: slice) -> Tensor:
    """[H, W, 3] -> float64 [K, len(rows), W] of the chosen rows and channels."""
    return _unit_range(image[rows][..., channels].permute(2, 0, 1).contiguous())


def _smooth(maps: Tensor) -> Tensor:
    """Gaussian window over float64 [K, H + 2 * _REACH, W], with reflected borders left and right: [K, H, W]."""
    taps = [math.exp(-offset * offset / (2 * _WINDOW_SIGMA**2)) for offset in range(-_REACH, _REACH + 1)]
    total = sum(taps)
    # Shifted sums: a float64 conv2d of one channel is about 20 times slower on CPU.
    smooth = F.pad(maps, (_REACH, _REACH), mode="reflect")
    for axis in (1, 2):
        size = smooth.shape[axis] - 2 * _REACH
        summed = smooth.narrow(axis, 0, size) * (taps[0] / total)
        for shift, tap in enumerate(taps[1:], start=1):
            summed.add_(smooth.narrow(axis, shift, size), alpha=tap / total)
        smooth = summed
    return smooth


def _checked(images: Pixels, target: Pixels, region: Region) -> tuple[Tensor, Tensor, Tensor]:
    pixels, wanted = _tensor(images), _tensor(target)
    inside = _bool_mask(region, "region").to(pixels.device)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) == 0 or wanted.shape != pixels.shape[1:]:
        raise ValueError(
            "expected images [B, H, W, 3] with B >= 1 and a target [H, W, 3] of the same size, got "
            f"{list(pixels.shape)} and {list(wanted.shape)}."
        )
    if inside.shape != wanted.shape[:2]:
        raise ValueError(f"the mask must have the images' size, {list(wanted.shape[:2])}; got {list(inside.shape)}.")
    if not bool(inside.any()):
        raise RegionError(
            "the region to be measured has no pixel (an edit mask that covers the whole image leaves no "
            "background); leave this score out for the task instead of giving it a number."
        )
    for name, values in (("images", pixels), ("target", wanted)):
        _check_range(name, values)
    return pixels, wanted.to(pixels.device), inside


def _check_range(name: str, values: Tensor) -> None:
    if values.dtype == torch.uint8:
        return
    if not values.is_floating_point():
        raise ValueError(f"{name} must be uint8 or floating point in [0, 1]; got {values.dtype}.")
    low, high = values.min().item(), values.max().item()
    if not (math.isfinite(low) and math.isfinite(high) and low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(
            f"{name} in floating point must lie in [0, 1]; got values from {low:g} to {high:g} (divide "
            "8-bit values by 255)."
        )


def _unit_range(values: Tensor) -> Tensor:
    """float64 in [0, 1]."""
    return values.double() / 255 if values.dtype == torch.uint8 else values.double()


def _bool_mask(mask: Region, name: str) -> Tensor:
    tensor = _tensor(mask)
    if tensor.dtype != torch.bool:
        raise ValueError(f"{name} must be bool [H, W]; got {tensor.dtype}.")
    return tensor


def _tensor(values: Tensor | NDArray[np.generic]) -> Tensor:
    # torch.tensor copies: task images are read-only arrays, which from_numpy would only warn about.
    return values if isinstance(values, Tensor) else torch.tensor(values)
