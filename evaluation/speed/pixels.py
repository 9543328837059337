"""PSNR and SSIM outside the mask, relative to the torch operations that they require."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.speed.group import GROUP, SIDE, group_of
from evaluation.speed.table import ratio
from evaluation.speed.timing import Measured, clock_for, interleaved, timed
from rewards.scorers.psnr import background_psnr
from rewards.scorers.ssim import background_ssim


def measure_pixels(threads: int, repetitions: int) -> tuple[list[Measured], str]:
    """PSNR and SSIM of a group relative to the bare torch operations that they require."""
    torch.set_num_threads(threads)
    clock, name = clock_for(torch.device("cpu"), threads)
    given = group_of(GROUP, SIDE)
    images, source = torch.tensor(given.images), torch.tensor(given.task.source)
    kept = torch.tensor(~given.task.edit_mask)

    def scored() -> None:
        background_psnr(given)
        background_ssim(given)

    scores, bare = interleaved(
        [timed(scored, clock), timed(lambda: bare_psnr_ssim(images, source, kept), clock)], repetitions
    )
    return [ratio(f"PSNR and SSIM of {GROUP} at {SIDE}² / the bare torch operations", scores, bare, 1.2)], name


def bare_psnr_ssim(images: Tensor, source: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Masked PSNR and SSIM of uint8 [B, H, W, 3] with nothing around the formulas: no checks, no caps, no scores."""
    places, weight = kept.flatten().nonzero()[:, 0], kept.double()
    window = [math.exp(-offset * offset / 4.5) for offset in range(-5, 6)]
    taps = [value / sum(window) for value in window]

    def blur(plane: Tensor) -> Tensor:
        plane = F.pad(plane[None], (5, 5, 5, 5), mode="reflect")[0]
        for axis in (0, 1):
            size = plane.shape[axis] - 10
            total = plane.narrow(axis, 0, size) * taps[0]
            for shift in range(1, 11):
                total.add_(plane.narrow(axis, shift, size), alpha=taps[shift])
            plane = total
        return plane

    scale = 1 / blur(weight).clamp(min=1e-300)
    reference = source.reshape(-1, 3).index_select(0, places).double() / 255
    errors = torch.stack(
        [(image.reshape(-1, 3).index_select(0, places).double() / 255 - reference).square_().mean() for image in images]
    )
    ssim = torch.zeros(len(images), dtype=torch.float64)
    for channel in range(3):
        y = source[..., channel].double() / 255
        mean_y = blur(y * weight) * scale
        var_y = blur(y.square() * weight) * scale - mean_y.square()
        for number, image in enumerate(images):
            x = image[..., channel].double() / 255
            mean_x = blur(x * weight) * scale
            var_x = blur(x.square() * weight) * scale - mean_x.square()
            both = blur(x * y * weight) * scale - mean_x * mean_y
            score = (2 * mean_x * mean_y + 1e-4) * (2 * both + 9e-4)
            score /= (mean_x.square() + mean_y.square() + 1e-4) * (var_x + var_y + 9e-4)
            ssim[number] += (score * weight).sum()
    return -10 * errors.log10(), ssim / (3 * len(places))
