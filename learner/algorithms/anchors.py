"""Queries of methods that learn from anchors: every (trained step, anchor) pair asks for one velocity.

Anchor states are one-step predictions from stored predecessors (adopted for Eq. 13 of arXiv 2604.09386, see
`editing.flow.leap`), or, as Eq. 13 is written, from where the present weights lead from the initial noise (`Way`). An
anchor needs no valid score: it is where the gradient is taken, not what is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from editing.flow import Velocity, euler_step, integrate
from learner.algorithms.base import GroupTensors, Queries, Start
from learner.algorithms.region_credit import RegionCredit


@dataclass(frozen=True, eq=False)
class Way:
    """How the anchors come to their predecessors.

    Attributes:
        start: where they begin.
        sigmas: float32 [T+1], the grid.
        steps: the K trained steps, rising.
        differentiable: whether the gradient goes back to the start.
    """

    start: Start
    sigmas: Tensor
    steps: tuple[int, ...]
    differentiable: bool

    def predecessors(self, velocity: Velocity) -> Tensor:
        """[P, N, C] under a velocity, all anchors in one batch."""
        noise, solver, last = self.start.noise, self.start.solver, self.steps[-1]
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            grid = self.sigmas[: last + 1]
            states = integrate(velocity, noise, grid, solver, keep=self.steps).states if last else {0: noise}
        return torch.cat([states[step] for step in self.steps])


@dataclass(frozen=True, eq=False)
class AnchorQueries(Queries):
    """P = K * B pairs of a group, step by step: pair j * B + b is anchor b at trained step j; `x` are the anchors'
    predecessors.

    Attributes:
        sigma_next: float32 [P], below sigma.
        candidates: float32 [K, V, N, C], all V valid candidates at the steps' `sigma_next`.
        advantages: float32 [V], those of the valid candidates.
        edit_mask: float32 [N] in [0, 1], 1 = editable: the edit region of the metric.
        credit: of the valid candidates, by region.
        way: to the predecessors under the present weights; None = they stay where the rollout had them.
        stored: [P, N, C], the predecessors as the rollout made them, where `x` are others.
    """

    sigma_next: Tensor
    candidates: Tensor
    advantages: Tensor
    edit_mask: Tensor
    credit: RegionCredit
    way: Way | None = None
    stored: Tensor | None = None

    def __post_init__(self) -> None:
        pairs, tokens, channels = self.x.shape
        steps, valid = self.candidates.shape[:2]
        fits = (
            self.candidates.shape[2:] == (tokens, channels)
            and self.sigma.shape == self.sigma_next.shape == (pairs,)
            and self.advantages.shape == (valid,)
            and self.edit_mask.shape == (tokens,)
            and self.credit.advantages.shape[0] == valid
            and steps >= 1
            and pairs % steps == 0
        )
        if not fits:
            raise ValueError(
                "the parts of anchor queries do not fit: "
                + ", ".join(f"{k} {list(v.shape)}" for k, v in vars(self).items() if isinstance(v, Tensor))
                + "."
            )

    def step_of(self, pair: int) -> int:
        """Which of the K trained steps a pair belongs to."""
        return pair // (self.count // int(self.candidates.shape[0]))

    def present(self, velocity: Velocity) -> Self:
        """The queries from the predecessors to which the present weights lead."""
        return self if self.way is None else replace(self, x=self.way.predecessors(velocity), stored=self.rolled_out.x)

    @property
    def rolled_out(self) -> Self:
        """The queries from the predecessors as the rollout made them."""
        return self if self.stored is None else replace(self, x=self.stored, stored=None)

    def predictions(self, rows: slice, velocity: Tensor) -> Tensor:
        """The anchor states [b, N, C] at sigma_next that velocities [b, N, C] lead to."""
        return euler_step(self.x[rows], velocity, self.sigma[rows], self.sigma_next[rows])


def anchor_queries(group: GroupTensors, trained_steps: Sequence[int]) -> AnchorQueries:
    """The pairs of a group at some of its kept steps."""
    kept = [group.steps.index(step) for step in trained_steps]
    at = torch.tensor(trained_steps, device=group.sigmas.device).repeat_interleave(len(group.anchors))
    return AnchorQueries(
        x=group.predecessors[kept].flatten(0, 1),
        sigma=group.sigmas[at],
        sigma_next=group.sigmas[at + 1],
        candidates=group.candidates[kept][:, group.valid],
        advantages=group.advantages[group.valid],
        edit_mask=group.edit_mask,
        credit=group.regions.of(group.valid),
    )
