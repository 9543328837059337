"""Loss terms at the velocity: their gradients meet there, and only their sum goes through the transformer.

Every term of a method is a function of one velocity per query. Its gradient with respect to the velocity is cheap, so
each term's norm is known for free, and the number of terms does not change the cost: one forward and one backward per
query. Where the states that are asked at depend on the weights, too, their gradients are gathered over all queries and
go back once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from editing.flow import Velocity
from learner.algorithms.base import Queries, Ratio, Term, Velocities


@dataclass(frozen=True)
class TermStats:
    """A term over all queries of a group: its unweighted `value`, and the norm of its weighted gradient with respect to
    the velocities. Adam removes the common scale of a step, so only the norms' proportion says what weights mean."""

    value: float = 0.0
    gradient: float = 0.0


@dataclass(frozen=True)
class GroupStats:
    """What one group did to the gradient.

    Attributes:
        terms: those that took part, by name. The value of a surrogate at the old weights is minus the sum of the
            advantages, so only its gradient tells.
        loss: their weighted sum.
        ratio_deviation: largest |rho - 1|; NaN if a ratio is.
        clipped_fraction: share of the ratios whose gradient the clip removed.
    """

    terms: Mapping[str, TermStats] = field(default_factory=dict)
    loss: float = 0.0
    ratio_deviation: float = 0.0
    clipped_fraction: float = 0.0


TermsOf = Callable[[Queries, Velocities], Mapping[str, Term]]


def backward_through_velocity(
    queries: Queries,
    velocity: Velocity,
    terms_of: TermsOf,
    old: Tensor | None,
    reference: Velocity,
    micro_batch: int | None,
    scale: float,
) -> tuple[GroupStats, Tensor]:
    """Adds scale * gradient of sum_t weight_t * term_t to the parameters behind `velocity`.

    Args:
        queries: of a group.
        velocity: (x [b, N, C], sigma [b]) -> v [b, N, C], differentiable.
        terms_of: the terms of some queries; the same names for all.
        old: [P, N, C], velocities under the behaviour policy; None = the present weights are those.
        reference: the base's velocity, called without gradient where a term asks for it.
        micro_batch: queries per forward and backward; None = all. The gradient is the same but for rounding.
        scale: factor of the gradient, not of the returned numbers.

    Returns:
        The numbers over all queries, and the velocities [P, N, C] under the present weights, detached.
    """
    values: dict[str, float] = {}
    squares: dict[str, float] = {}
    weights: dict[str, float] = {}
    ratios: list[tuple[int, Ratio]] = []
    found = []
    states = (queries := queries.present(velocity)).x
    if states.requires_grad:
        queries = replace(queries, x=states.detach().requires_grad_())
    of_states = torch.zeros_like(states)
    for rows in queries.chunks(micro_batch):
        v = velocity(queries.x[rows], queries.sigma[rows])
        velocities, share = _velocities(queries, rows, v, old, reference)
        cotangent = torch.zeros_like(velocities.new)
        terms = terms_of(queries, velocities)
        for name, gradient in _weighted_gradients(terms, velocities, share):
            cotangent += gradient
            values[name] = values.get(name, 0.0) + share * terms[name].value.item()
            squares[name] = squares.get(name, 0.0) + gradient.square().sum().item()
            weights[name] = terms[name].weight
        ratios += [(len(velocities.new), term.ratio) for term in terms.values() if term.ratio is not None]
        if states.requires_grad:
            of_states += _gradient_of_states(terms, queries.x, share)
        torch.autograd.backward([v], [scale * cotangent])
        found.append(velocities.new.detach())
    if queries.x.grad is not None:  # what went back through the velocities to the states
        torch.autograd.backward([states], [queries.x.grad + scale * of_states])
    stats = GroupStats(
        {name: TermStats(values[name], squares[name] ** 0.5) for name in values},
        loss=sum(weights[name] * value for name, value in values.items()),
        # np.max keeps a NaN, Python's max may lose it.
        ratio_deviation=float(np.max([ratio.deviation.item() for _, ratio in ratios])) if ratios else 0.0,
        clipped_fraction=sum(n * ratio.clipped.item() for n, ratio in ratios) / queries.count,
    )
    return stats, torch.cat(found)


def gradient_norms(
    queries: Queries,
    velocity: Velocity,
    terms_of: TermsOf,
    old: Tensor | None,
    reference: Velocity,
    micro_batch: int | None,
) -> dict[str, float]:
    """The norm of every term's weighted gradient with respect to the velocities, without going through the transformer.

    Arguments as of `backward_through_velocity`, whose `TermStats.gradient` it is.
    """
    squares: dict[str, float] = {}
    with torch.no_grad():
        queries = queries.present(velocity)
    for rows in queries.chunks(micro_batch):
        with torch.no_grad():
            v = velocity(queries.x[rows], queries.sigma[rows])
        velocities, share = _velocities(queries, rows, v, old, reference)
        for name, gradient in _weighted_gradients(terms_of(queries, velocities), velocities, share):
            squares[name] = squares.get(name, 0.0) + gradient.square().sum().item()
    return {name: square**0.5 for name, square in squares.items()}


def _velocities(
    queries: Queries, rows: slice, v: Tensor, old: Tensor | None, reference: Velocity
) -> tuple[Velocities, float]:
    """What terms are made from, and the rows' share of all queries."""

    def ask_reference(rows: slice) -> Tensor:
        with torch.no_grad():
            return reference(queries.x[rows], queries.sigma[rows])

    leaf = v.detach().requires_grad_()
    given = None if old is None else old[rows]
    return Velocities(rows, leaf, given, ask_reference), leaf.shape[0] / queries.count


def _gradient_of_states(terms: Mapping[str, Term], states: Tensor, share: float) -> Tensor:
    """Share of the weighted terms' gradient with respect to the states [P, N, C], at constant velocities."""
    values = [term.weight * share * term.value for term in terms.values() if term.value.requires_grad]
    if not values:
        return torch.zeros_like(states)
    (gradient,) = torch.autograd.grad(torch.stack(values).sum(), states, retain_graph=True, allow_unused=True)
    return torch.zeros_like(states) if gradient is None else gradient


def _weighted_gradients(
    terms: Mapping[str, Term], velocities: Velocities, share: float
) -> Iterator[tuple[str, Tensor]]:
    """Of every term, its share of weight * d value / d v; zero for a constant (a full mask leaves no background)."""
    for name, term in terms.items():
        if term.value.requires_grad:
            (gradient,) = torch.autograd.grad(term.value, velocities.new, retain_graph=True)
            yield name, gradient * (term.weight * share)
        else:
            yield name, torch.zeros_like(velocities.new)
