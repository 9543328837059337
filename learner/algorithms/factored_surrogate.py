"""The surrogate policy factored over regions: one softmax, one advantage and one ratio for every region.

Adopted for Edit-GRPO (arXiv 2605.16951), whose equations are not public, and offered for RC-GRPO-Editing (arXiv
2604.09386), whose Eq. 14 has one softmax over the sum of both regions' distances:

    pi^r(i) = softmax_i( -d_r^2 / (2 tau_r^p) ),    d_r^2 = sum_{u,c} M_r(u) (x - y)_{u,c}^2 / (C sum_u M_r(u))
    J       = sum_r w_r sum_i min( A_ir rho_ir, A_ir clip(rho_ir) )

At the old weights the gradient w.r.t. the anchor is sum_r w_r M_r / (n_r tau_r^p) sum_i A_ir x_i: with one advantage
for all regions that of the joint surrogate, from which it then differs by its normalisers and by where the clip acts.
"""

from dataclasses import replace

import torch
from torch import Tensor

from editing.token_mask import at_least_float32, checked_regions
from learner.algorithms.surrogate import Clip, ClippedObjective, clipped_terms, log_policy


def factored_log_policy(candidates: Tensor, anchor: Tensor, regions: Tensor, bandwidths: Tensor) -> Tensor:
    """log pi^r [R, V] of the candidates around an anchor, region by region.

    A region without tokens is uniform and has no gradient. Counts below 1 are taken as 1, as in the joint metric
    (`learner.algorithms.surrogate.region_weights`).

    Args:
        candidates: [V, N, C], constants.
        anchor: [N, C]; the gradient flows here.
        regions: [R, N] in [0, 1]; may be soft, overlap, or be empty.
        bandwidths: tau_r^p [R], above 0.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    if candidates.ndim != 3 or anchor.shape != candidates.shape[1:] or bandwidths.shape != regions.shape[:1]:
        raise ValueError(
            "candidates must be [V, N, C], anchor [N, C] and bandwidths [R] of regions [R, N], got "
            f"{list(candidates.shape)}, {list(anchor.shape)}, {list(bandwidths.shape)} and {list(regions.shape)}."
        )
    if not bool((bandwidths > 0).all()):  # NaN fails too
        raise ValueError(f"bandwidths must be above 0, got {bandwidths.tolist()}.")
    candidates, anchor = at_least_float32(candidates), at_least_float32(anchor)
    shares = checked_regions(regions, anchor.shape[0], like=anchor)
    counts = (anchor.shape[1] * shares.sum(dim=1)).clamp(min=1)
    weights = shares / (counts * bandwidths.to(anchor))[:, None]
    squares = (candidates - anchor).square().sum(dim=-1)  # [V, N]
    # Not a matrix product, which may run in TensorFloat32.
    return log_policy(torch.stack([(squares * weight).sum(dim=-1) for weight in weights]))


def factored_objective(
    log_new: Tensor, log_old: Tensor, advantages: Tensor, weights: Tensor, clip: Clip
) -> ClippedObjective:
    """J [B] of every anchor, the sum over regions and candidates; the caller averages.

    Args:
        log_new: [B, R, V], under the current weights.
        log_old: [B, R, V], under those of the rollout; constants (detached here).
        advantages: A [V, R], constants.
        weights: w [R], at least 0, constants.
        clip: see `learner.algorithms.surrogate.clipped_terms`.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    shape = tuple(reversed(log_new.shape[1:]))
    if log_new.ndim != 3 or log_old.shape != log_new.shape or advantages.shape != shape or weights.shape != shape[1:]:
        raise ValueError(
            "log_new and log_old must be [B, R, V], advantages [V, R] and weights [R], got "
            f"{list(log_new.shape)}, {list(log_old.shape)}, {list(advantages.shape)} and {list(weights.shape)}."
        )
    weights = weights.detach().to(log_new)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"weights of regions must be finite and at least 0, got {weights.tolist()}.")
    # A region of weight 0 has no part in what is said of the clip, either.
    credit = torch.where(weights > 0, advantages, 0).T
    terms = clipped_terms(log_new, log_old, credit, clip)
    return replace(terms, objective=(weights * terms.objective.sum(dim=-1)).sum(dim=-1))
