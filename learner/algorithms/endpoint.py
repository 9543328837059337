"""The direction of better end points, and terms that push the velocity against it.

Ours. The surrogate pulls a step's state toward the advantage-weighted states of that step, a pull that fades with the
length of the step; the end points of a group's trajectories say the same about every step alike. With v = noise - x0, a
velocity that falls along a direction moves the clean estimate x - sigma * v along it. Finite-difference flow
optimization (FDFO, arXiv 2603.12893) takes pairs of end points in the same manner; its ideas are in `fdfo_loss`.
"""

import torch
from torch import Tensor

from editing.token_mask import at_least_float32, checked_token_mask
from learner.algorithms.token_mean import weighted_token_mean

SPREAD_TOLERANCE = 1e-6
"""A spread below this part of the end points' own size is rounding, not a difference (float32 keeps 1.2e-7)."""
EPSILON = 0.03
"""How far e^g goes beyond 1, from arXiv 2603.12893."""


def endpoint_direction(final: Tensor, advantages: Tensor, edit_mask: Tensor) -> Tensor:
    """d [N, C] = mean_i A_i (x0_i - mean_j x0_j) / s, from worse to better end points, a constant.

        s^2 = mean over candidates and mask elements of (x0_i - mean_j x0_j)^2

    Divided by the spread of the group, so d says which way and how clearly, not how far apart the candidates are: its
    RMS in the mask is at most that of the advantages. All of d is returned; its terms weigh it by the mask. Zeros where
    there is nothing to tell: equal rewards, no spread in the mask (`SPREAD_TOLERANCE`), one candidate, an empty mask.

        x0 = (-1, 1) of one element, A = (-1, 1)  ->  d = 1

    Args:
        final: x0 [V, N, C] of the valid candidates, constants (detached here).
        advantages: A [V], or one per token [V, N], constants.
        edit_mask: [N] in [0, 1], 1 = editable; soft tokens count by their mask.

    Raises:
        ValueError: for mismatched shapes, or no candidate.
    """
    if final.ndim != 3 or final.shape[0] < 1 or advantages.shape not in (final.shape[:1], final.shape[:2]):
        raise ValueError(
            "final must be [V, N, C] and advantages [V] or [V, N] with V at least 1, got "
            f"{list(final.shape)} and {list(advantages.shape)}."
        )
    final = at_least_float32(final.detach())
    mask = checked_token_mask(edit_mask, final.shape[1], like=final)
    credit = advantages.detach().to(final)
    centred = final - final.mean(dim=0)
    spread, size = (weighted_token_mean(x.square(), mask).mean().sqrt() for x in (centred, final))
    if bool(spread <= SPREAD_TOLERANCE * size):
        return torch.zeros_like(centred[0])
    pulled = torch.einsum("v,vnc->nc" if credit.ndim == 1 else "vn,vnc->nc", credit, centred)
    return pulled / (spread * final.shape[0])


def endpoint_term(v: Tensor, direction: Tensor, edit_mask: Tensor) -> Tensor:
    """Mean over pairs and mask elements of v * d, a scalar to be minimised.

    Linear in v: the same push at every step, gradient mask * d / (P C sum mask), zero for an empty mask. Nothing ends
    it, so it is for one update per rollout; `fdfo_loss` is for more.

    Args:
        v: [P, N, C], velocities at stored states; the gradient flows here.
        direction: d [N, C], see `endpoint_direction`, constants (detached here).
        edit_mask: [N] in [0, 1], 1 = editable; soft tokens count by their mask.

    Raises:
        ValueError: for mismatched shapes.
    """
    if v.ndim != 3 or direction.shape != v.shape[1:]:
        raise ValueError(f"v must be [P, N, C] and direction [N, C], got {list(v.shape)} and {list(direction.shape)}.")
    v = at_least_float32(v)
    mask = checked_token_mask(edit_mask, v.shape[1], like=v)
    return weighted_token_mean(v * direction.detach().to(v), mask).mean()


def fdfo_loss(
    v: Tensor,
    v_old: Tensor,
    direction: Tensor,
    edit_mask: Tensor,
    gain: float,
    contrast: float = 1.0,
    epsilon: float = EPSILON,
) -> Tensor:
    """The end-point direction with an end, per pair, [P], to be minimised over several updates of one rollout.

        v* = v_old - gain * d,    g = mean_M (gain * d)^2 - mean_M (v - v*)^2
        L  = -c e^g + |c| / (2 epsilon) * (e^g - 1)^2

    g is 0 at v_old and largest at v*. The gradient ends where e^g = 1 + epsilon, or at v* when that is nearer, and
    pulls back beyond (with c below 0 it pushes away from v*, until e^g = 1 - epsilon). At v_old it is
    2 c gain * mask * d / (C sum mask): that of `endpoint_term` for one pair, times 2 c gain.

    From FDFO (arXiv 2603.12893): the target v* at a distance from the old velocity, g as a log ratio that is 0 at the
    old weights, L with its quadratic end, and epsilon. There, d is half the difference dx of the two end points of a
    pair from nearly the same noise, divided by its mean square, gain is 1 and c the difference dR of their rewards.
    Ours: d of a whole group, weighted by advantages and divided by their spread (so c is 1, dR being in d already);
    the gain; means over mask elements, where theirs are over all. Written from the equations; their code was not used.

    Args:
        v: [P, N, C], velocities at stored states; the gradient flows here.
        v_old: [P, N, C], under the weights of the rollout, constants (detached here).
        direction: d [N, C], or [P, N, C] where pairs differ, constants (detached here).
        edit_mask: [N] in [0, 1], 1 = editable; soft tokens count by their mask. Empty: L = -c, with a zero gradient.
        gain: > 0.
        contrast: c; negative to push away from v*.
        epsilon: > 0.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    if v.ndim != 3 or v_old.shape != v.shape or direction.shape not in (v.shape, v.shape[1:]):
        raise ValueError(
            "v and v_old must be [P, N, C] and direction [N, C] or [P, N, C], got "
            f"{list(v.shape)}, {list(v_old.shape)} and {list(direction.shape)}."
        )
    if not (gain > 0 and epsilon > 0):  # NaN fails too
        raise ValueError(f"gain and epsilon must be above 0, got {gain} and {epsilon}.")
    v = at_least_float32(v)
    mask = checked_token_mask(edit_mask, v.shape[1], like=v)
    push = gain * direction.detach().to(v)
    moved = v - v_old.detach().to(v)
    # |push|^2 - |moved + push|^2, multiplied out: exactly 0 at v_old, and a small move keeps its digits.
    ratio = torch.exp(-weighted_token_mean(moved * (moved + 2 * push), mask))
    return -contrast * ratio + abs(contrast) / (2 * epsilon) * (ratio - 1).square()
