"""Stored transitions of a group that a solver step from their beginning must reproduce: what the policy gate compares.

The step is Euler's, or a noisy one whose noise is drawn anew from the group's seed. Rows are ordered step by step, as
in `learner.algorithms.anchors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.flow import SdeKind, Velocity, euler_step, sde_step
from learner.algorithms.base import GroupTensors


@dataclass(frozen=True, eq=False)
class Replay:
    """P = K * B transitions.

    Attributes:
        x: float32 [P, N, C], the anchors' states at `sigma`.
        sigma, sigma_next: float32 [P].
        stored: float32 [P, N, C], their states at `sigma_next` as the rollout made them.
        steps: K, the number of different steps.
        noise: float32 [P, N, C], what was added on the way; None for deterministic steps.
        sde, level, sigma_max: of noisy steps, see `editing.flow.sde_step`.
    """

    x: Tensor
    sigma: Tensor
    sigma_next: Tensor
    stored: Tensor
    steps: int
    noise: Tensor | None = None
    sde: SdeKind | None = None
    level: float = 0.0
    sigma_max: float = 1.0

    @property
    def count(self) -> int:
        """P."""
        return int(self.x.shape[0])

    def step_of(self, row: int) -> int:
        """Which of the K steps a row belongs to."""
        return row // (self.count // self.steps)

    def next_states(self, rows: slice | Sequence[int], velocity: Tensor) -> Tensor:
        """The states [b, N, C] at sigma_next that velocities [b, N, C] lead to."""
        chosen = rows if isinstance(rows, slice) else list(rows)
        x, sigma, sigma_next = self.x[chosen], self.sigma[chosen], self.sigma_next[chosen]
        if self.noise is None or self.sde is None:
            return euler_step(x, velocity, sigma, sigma_next)
        return sde_step(x, velocity, sigma, sigma_next, self.sde, self.level, self.noise[chosen], self.sigma_max)[0]

    def displacement(self, rows: Sequence[int]) -> Tensor:
        """The length [b] of the way from x to the stored states, noise left out."""
        chosen = list(rows)
        way = self.stored[chosen] - self.x[chosen]
        if self.noise is not None:
            # What a velocity of zero leads to has the noise and nothing of the policy.
            way = self.stored[chosen] - self.next_states(chosen, torch.zeros_like(way))
        length: Tensor = torch.linalg.vector_norm(way.flatten(1), dim=1)
        return length


def replay_of(group: GroupTensors, noise: Tensor | None, sde: SdeKind | None, level: float) -> Replay:
    """All kept transitions of the group's anchors; `noise` [P, N, C] and the rest for noisy steps."""
    device, anchors = group.sigmas.device, torch.tensor(group.anchors, device=group.sigmas.device)
    at = torch.tensor(group.steps, device=device).repeat_interleave(len(anchors))
    return Replay(
        x=group.predecessors.flatten(0, 1),
        sigma=group.sigmas[at],
        sigma_next=group.sigmas[at + 1],
        stored=group.candidates[:, anchors].flatten(0, 1),
        steps=len(group.steps),
        noise=None if noise is None else noise.to(device),
        sde=sde,
        level=level,
        sigma_max=float(group.sigmas[1]),
    )


@torch.no_grad()
def replayed(velocity: Velocity, replay: Replay, micro_batch: int | None) -> Tensor:
    """The next states [P, N, C] under the weights of `velocity`, in batches of at most `micro_batch`."""
    size = micro_batch or replay.count
    rows = [slice(start, min(start + size, replay.count)) for start in range(0, replay.count, size)]
    return torch.cat([replay.next_states(part, velocity(replay.x[part], replay.sigma[part])) for part in rows])


@torch.no_grad()
def relative_distance(found: Tensor, others: Tensor, replay: Replay, rows: Sequence[int]) -> float:
    """Largest distance of a row's two next states, relative to its step: |found - other| / |displacement|.

    Against the stored states it is zero up to rounding when rollout and replay used the same weights, conditions, code
    and grid. Relative to the displacement, that is, to the velocity: relative to the state it would hide a wrong
    velocity behind a short step.

    Args:
        found, others: [P, N, C].
        replay: what both were taken from.
        rows: those to look at, at least one, in 0..P-1.
    """
    chosen = list(rows)
    distance = torch.linalg.vector_norm((found[chosen] - others[chosen]).flatten(1), dim=1)
    return float((distance / replay.displacement(chosen).clamp(min=torch.finfo(torch.float32).tiny)).max())
