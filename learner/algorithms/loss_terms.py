"""Loss terms at the velocity: their gradients meet there, and only their sum goes through the transformer.

Every term of an anchor-based method is a function of one velocity per pair. Its gradient with respect to the
velocity is cheap, so each term's norm is known for free, and the number of terms does not change the cost: one
forward and one backward per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.flow import Velocity, euler_step
from learner.algorithms.anchors import AnchorBatch


@dataclass(frozen=True, eq=False)
class Term:
    """A scalar to be minimised, the mean over the pairs it was made from, and its weight in the loss."""

    value: Tensor
    weight: float


@dataclass(frozen=True)
class TermStats:
    """A term over all pairs of a group: its unweighted `value`, and the norm of its weighted gradient with respect to
    the velocities. Adam removes the common scale of a step, so only the norms' proportion says what weights mean."""

    value: float = 0.0
    gradient: float = 0.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of one forward: `rows` of the batch, velocities `v` [b, N, C] (a leaf), leaps `anchors` [b, N, C]."""

    rows: slice
    v: Tensor
    anchors: Tensor


TermsOf = Callable[[Pairs], Mapping[str, Term]]


def backward_through_velocity(
    batch: AnchorBatch, velocity: Velocity, terms_of: TermsOf, micro_batch: int | None, scale: float
) -> tuple[dict[str, TermStats], Tensor]:
    """Adds scale * gradient of sum_t weight_t * term_t to the parameters behind `velocity`.

    Args:
        batch: the anchors of a group.
        velocity: (x [b, N, C], sigma [b]) -> v [b, N, C], differentiable.
        terms_of: the terms of some pairs, functions of `v` and `anchors`; the same names for all pairs.
        micro_batch: pairs per forward and backward; None = all. The gradient is the same but for rounding.
        scale: factor of the gradient, not of the returned numbers.

    Returns:
        The terms' numbers over all pairs, and the one-step predictions [P, N, C], detached.
    """
    values: dict[str, float] = {}
    squares: dict[str, float] = {}
    leaped = []
    for rows in batch.chunks(micro_batch):
        v = velocity(batch.predecessors[rows], batch.sigma[rows])
        pairs, share = _pairs(batch, rows, v)
        cotangent = torch.zeros_like(pairs.v)
        terms = terms_of(pairs)
        for name, gradient in _weighted_gradients(terms, pairs, share):
            cotangent += gradient
            values[name] = values.get(name, 0.0) + share * terms[name].value.item()
            squares[name] = squares.get(name, 0.0) + gradient.square().sum().item()
        torch.autograd.backward([v], [scale * cotangent])
        leaped.append(pairs.anchors.detach())
    return {name: TermStats(values[name], squares[name] ** 0.5) for name in values}, torch.cat(leaped)


def gradient_norms(
    batch: AnchorBatch, velocity: Velocity, terms_of: TermsOf, micro_batch: int | None
) -> dict[str, float]:
    """The norm of every term's weighted gradient with respect to the velocities, without going through the transformer.

    Arguments as of `backward_through_velocity`, whose `TermStats.gradient` it is.
    """
    squares: dict[str, float] = {}
    for rows in batch.chunks(micro_batch):
        with torch.no_grad():
            v = velocity(batch.predecessors[rows], batch.sigma[rows])
        pairs, share = _pairs(batch, rows, v)
        for name, gradient in _weighted_gradients(terms_of(pairs), pairs, share):
            squares[name] = squares.get(name, 0.0) + gradient.square().sum().item()
    return {name: square**0.5 for name, square in squares.items()}


def _pairs(batch: AnchorBatch, rows: slice, v: Tensor) -> tuple[Pairs, float]:
    """What terms are made from, and the rows' share of all pairs."""
    x, leaf = batch.predecessors[rows], v.detach().requires_grad_()
    return Pairs(rows, leaf, euler_step(x, leaf, batch.sigma[rows], batch.sigma_next[rows])), x.shape[0] / batch.pairs


def _weighted_gradients(terms: Mapping[str, Term], pairs: Pairs, share: float) -> Iterator[tuple[str, Tensor]]:
    """Of every term, its share of weight * d value / d v; zero for a constant (a full mask leaves no background)."""
    for name, term in terms.items():
        if term.value.requires_grad:
            (gradient,) = torch.autograd.grad(term.value, pairs.v, retain_graph=True)
            yield name, gradient * (term.weight * share)
        else:
            yield name, torch.zeros_like(pairs.v)
