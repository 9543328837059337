"""Queries of methods that learn from given images: each is noised, and the policy is asked for the way back.

Levels are drawn between those of the sampler's grid, at uniform places of it: so they are dense where the sampler takes
short steps, whatever shift the editor has, and none is left out. The paper's own choice is uniform (arXiv 2210.02747);
an editor's own, such as FLUX's, is not published. `algorithm.samples` levels are stratified, one in each equal part of
the grid, which spares a small step much of the spread of its loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editing.flow import forward_noised
from editing.noise import standard_normal
from editing.random_draws import uniform
from learner.algorithms.base import GroupTensors, Queries


@dataclass(frozen=True, eq=False)
class DataQueries(Queries):
    """P = samples * G queries: x are the images' latents noised to sigma, all images of a group at one level after the
    other, and with the same noise there.

    Attributes:
        x0: float32 [P, N, C], the images' latents.
        noise: float32 [P, N, C], what they are noised with.
        images: G.
        edit_mask: float32 [N] in [0, 1], 1 = editable.
    """

    x0: Tensor
    noise: Tensor
    images: int
    edit_mask: Tensor

    def chunks(self, size: int | None) -> list[slice]:
        """As of `Queries`, and the images of a group at one level together."""
        return super().chunks(None if size is None else size - size % self.images)


def data_queries(group: GroupTensors, samples: int) -> DataQueries:
    """The queries of a group, `samples` levels for each of its images."""
    x0, device = group.candidates[-1], group.sigmas.device
    sigma = levels(group.sigmas.cpu().double().numpy(), group.seed, samples)
    noise = torch.stack([standard_normal(group.seed, f"level {k}", *x0.shape[1:]) for k in range(samples)])
    images = len(x0)
    at = torch.tensor(sigma, dtype=group.sigmas.dtype, device=device).repeat_interleave(images)
    spread, latents = noise.to(x0).repeat_interleave(images, dim=0), x0.repeat(samples, 1, 1)
    return DataQueries(forward_noised(latents, spread, at), at, latents, spread, images, group.edit_mask)


def levels(grid: np.ndarray, seed: int, samples: int) -> np.ndarray:
    """[samples] noise levels, falling: the grid [T+1], interpolated at a uniform place of each of its equal parts.

    grid (1, .8, 0), samples 2  ->  one of [1, .8], one of [.8, 0]
    """
    places = (np.arange(samples) + uniform(seed, "levels", samples)) / samples * (len(grid) - 1)
    found: np.ndarray = np.interp(places, np.arange(len(grid)), grid)
    return found
