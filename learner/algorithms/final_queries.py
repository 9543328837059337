"""Queries of methods that learn from final samples alone: every candidate is noised again, and asked for there.

The rollout's message is x0, by whatever solver; levels and noise follow from the group's seed. Released code of the
family trains every sample at all levels of the sampler's grid but the last, in another order for each; here
`algorithm.samples` says at how many, drawn for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.flow import forward_noised
from editing.noise import standard_normal
from editing.random_draws import draw
from learner.algorithms.base import GroupTensors, Queries


@dataclass(frozen=True, eq=False)
class FinalQueries(Queries):
    """P = samples * V queries: x are final samples noised to sigma.

    Attributes:
        x0: float32 [P, N, C], the final samples of the valid candidates.
        noise: float32 [P, N, C], what they are noised with.
        advantages: float32 [P].
        candidate: int64 [P], whose.
    """

    x0: Tensor
    noise: Tensor
    advantages: Tensor
    candidate: Tensor


def final_queries(group: GroupTensors, samples: int) -> FinalQueries:
    """`samples` queries of every valid candidate, at different levels."""
    device, final = group.sigmas.device, group.candidates[-1]
    levels = range(len(group.sigmas) - 2)
    rows = [
        (int(index), level)
        for index in group.valid.nonzero().flatten()
        for level in draw(group.seed, f"levels of candidate {int(index)}", levels, samples)
    ]
    candidate = torch.tensor([index for index, _ in rows], device=device)
    sigma = group.sigmas[torch.tensor([level for _, level in rows], device=device)]
    shape = final.shape[1:]
    noise = torch.stack([standard_normal(group.seed, f"level {level} candidate {i}", *shape) for i, level in rows])
    noise, x0 = noise.to(device), final[candidate]
    return FinalQueries(forward_noised(x0, noise, sigma), sigma, x0, noise, group.advantages[candidate], candidate)
