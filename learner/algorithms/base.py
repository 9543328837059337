"""What every method is: queries for velocities, and scalars of those velocities.

A method of this field is three decisions: which states a rollout keeps (`editing.rollout_spec`), at which (x, sigma)
the policy is asked for velocities, and which scalar of them is minimised. So an `Algorithm` is two pure functions; the
learner does the rest: batches and micro-batches, behaviour and reference velocities, the policy gate, one backward
through the transformer per query, data parallelism, spool and checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from editing.flow import Solver, Velocity
from editing.trajectory import TrajectoryGroup
from learner.algorithms.region_credit import RegionCredit, shared_credit


@dataclass(frozen=True, eq=False)
class Start:
    """Where the anchors of a rollout began, float32 [B, N, C] at sigmas[0], and the solver that led on from there."""

    noise: Tensor
    solver: Solver


@dataclass(frozen=True, eq=False)
class GroupTensors:
    """A group as a method sees it, on the learner's device.

    Attributes:
        steps: K kept steps j; `sigmas[j]` to `sigmas[j + 1]`.
        sigmas: float32 [T+1].
        candidates: float32 [K, G, N, C], states at sigmas[j + 1] of all candidates.
        predecessors: float32 [K, B, N, C], states at sigmas[j] of the anchors.
        anchors: B indices of candidates.
        valid: bool [G], the candidates that have a reward.
        advantages: float32 [G], zero where invalid; all zero where the group teaches nothing.
        edit_mask: float32 [N] in [0, 1], 1 = editable: the edit region of the method.
        source: float32 [N, C], clean source latents.
        grid: tokens (rows, columns).
        seed: of the group; what a method draws follows from it.
        credit: advantages per region; None where every token of a candidate has the same.
        start: where the anchors began; None where a method does not ask for it.
    """

    steps: tuple[int, ...]
    sigmas: Tensor
    candidates: Tensor
    predecessors: Tensor
    anchors: tuple[int, ...]
    valid: Tensor
    advantages: Tensor
    edit_mask: Tensor
    source: Tensor
    grid: tuple[int, int]
    seed: int
    credit: RegionCredit | None = None
    start: Start | None = None

    @property
    def is_silent(self) -> bool:
        """True when all advantages are zero, so that no reward has anything to say."""
        return self.credit.is_silent if self.credit is not None else not bool((self.advantages != 0).any())

    @property
    def regions(self) -> RegionCredit:
        """The advantages per region; where credit is given per candidate, its own in the edit region and in the
        background alike."""
        return self.credit if self.credit is not None else shared_credit(self.advantages, self.edit_mask)


def group_tensors(
    group: TrajectoryGroup,
    valid: Tensor,
    advantages: Tensor,
    edit_mask: Tensor,
    source: Tensor,
    grid: tuple[int, int],
    credit: RegionCredit | None = None,
    start: Start | None = None,
) -> GroupTensors:
    """The group on the device of `source`; arguments as the attributes."""
    device = source.device
    return GroupTensors(
        steps=group.kept_steps,
        sigmas=torch.tensor(group.sigmas, device=device),
        candidates=torch.tensor(group.candidates, device=device),
        predecessors=torch.tensor(group.predecessors, device=device),
        anchors=tuple(group.anchors.tolist()),
        valid=valid.to(device),
        advantages=advantages.to(device, torch.float32),
        edit_mask=edit_mask.to(device, torch.float32),
        source=source,
        grid=grid,
        seed=group.lease.seed,
        credit=None if credit is None else credit.to(device),
        start=None if start is None else Start(start.noise.to(device), start.solver),
    )


@dataclass(frozen=True, eq=False)
class Queries:
    """Where the policy is asked for velocities: x float32 [P, N, C] at sigma float32 [P]. Methods add what their terms
    need beside them."""

    x: Tensor
    sigma: Tensor

    @property
    def count(self) -> int:
        """P."""
        return int(self.x.shape[0])

    def chunks(self, size: int | None) -> list[slice]:
        """The queries in batches of at most `size`; None = all at once."""
        size = size or self.count
        return [slice(start, min(start + size, self.count)) for start in range(0, self.count, size)]

    def present(self, velocity: Velocity) -> Self:
        """The queries at the states to which the present weights lead; these themselves where states are stored ones.

        `x` may carry the graph of the velocity calls on the way: the gradient of the terms with respect to it then goes
        back through them.
        """
        return self


@dataclass(frozen=True, eq=False)
class Velocities:
    """The velocities of some queries.

    Attributes:
        rows: which queries.
        new: [b, N, C] under the weights that are trained, a leaf.
        given_old: [b, N, C] under the behaviour policy; None = the present weights are those.
        ask_reference: the base's velocities, asked for when a term needs them.
    """

    rows: slice
    new: Tensor
    given_old: Tensor | None
    ask_reference: Callable[[slice], Tensor]

    @property
    def old(self) -> Tensor:
        """[b, N, C] of the behaviour policy, constants; where the present weights are those, equal to `new` bit by
        bit, so that ratios are exactly 1."""
        return self.new.detach() if self.given_old is None else self.given_old

    def of_both(
        self, function: Callable[[Tensor], Tensor], of_old: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """`function` of the new velocities, and of the old ones as constants, bit by bit equal where the present
        weights are the behaviour policy. `of_old` is another function for the old ones."""
        new = function(self.new)
        return new, new.detach() if self.given_old is None else (of_old or function)(self.given_old)

    @cached_property
    def reference(self) -> Tensor:
        """[b, N, C] of the base, without the adapter, constants; one more forward."""
        return self.ask_reference(self.rows)


@dataclass(frozen=True, eq=False)
class Ratio:
    """How far the policy of some queries is from the behaviour policy, 0-dim tensors without gradient.

    Attributes:
        deviation: largest |rho - 1|; 0 before the first update on-policy.
        clipped: share of the ratios whose gradient the clip removed.
    """

    deviation: Tensor
    clipped: Tensor


@dataclass(frozen=True, eq=False)
class Term:
    """A scalar to be minimised, the mean over the queries it was made from, its weight in the loss, and the ratios in
    it, if any."""

    value: Tensor
    weight: float
    ratio: Ratio | None = None


SIGNAL = "surrogate"
"""The name of every method's own term, the one that rewards reach; the unit of the preservation weights."""

Q = TypeVar("Q", bound=Queries)


class Algorithm(Protocol, Generic[Q]):
    """A method. Pure: both functions may be called any number of times, in any process."""

    def queries(self, group: GroupTensors) -> Q:
        """Where a group asks for velocities; the same for every call."""
        ...

    def terms(self, queries: Q, velocity: Velocities) -> Mapping[str, Term]:
        """The terms of some queries, functions of `velocity.new`; the same names for all. `SIGNAL` is the one that
        rewards reach; it is left out by the learner where the group is silent."""
        ...


AnyAlgorithm = Algorithm[Any]
