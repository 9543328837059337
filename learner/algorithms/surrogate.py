"""The surrogate policy over a group: masked distance, softmax, ratio, clipped objective, exact KL.

RC-GRPO-Editing, arXiv 2604.09386, Eq. 5, 14, 15, on the mean-normalised masked metric "Scheme B" (adopted;
the paper's supplement is not public).

Invariants: probabilities sum to one over the candidates; the ratio is exactly 1 where new and old log-policy
are equal; with advantages that sum to zero, the gradient of the objective w.r.t. the anchor at the old
weights is W * sum_i A_i x_i.

A candidate without a valid score is taken out before the softmax, not masked inside it: index candidates (and
advantages) by the valid ones first. Otherwise probability would flow to and from a candidate without a score.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.token_mask import at_least_float32, checked_token_mask

TAU_EDIT = 0.9
TAU_BASE = 1.1


def region_weights(
    edit_mask: Tensor,
    channels: int,
    tau_edit: float = TAU_EDIT,
    tau_base: float = TAU_BASE,
    tau_power: int = 2,
) -> Tensor:
    """W [N] with d^2 = sum_{u,c} W_u (x - y)_{u,c}^2: the weighted form of Eq. B.3 (adopted).

        W = M / (n_e * tau_edit^p) + (1 - M) / (n_b * tau_base^p),    n_e = C sum(M), n_b = C sum(1 - M)

    Each region counts by its mean, so the policy does not depend on how large the mask is. Counts
    below 1 are taken as 1, so the term of an empty region is zero: a full mask leaves the edit term, an empty
    one the base term (callers count such groups).

    Args:
        edit_mask: [N] in [0, 1], 1 = editable; soft masks count in both regions.
        channels: C >= 1, channels per token.
        tau_edit: bandwidth of the edit region, > 0.
        tau_base: bandwidth of the rest, > 0.
        tau_power: 2 = one Gaussian kernel per region (default), 1 = the other reading of the paper.

    Raises:
        ValueError: for values outside these ranges.
    """
    if not (tau_edit > 0 and tau_base > 0):
        raise ValueError(f"tau_edit and tau_base must be above 0, got {tau_edit} and {tau_base}.")
    if tau_power not in (1, 2):
        raise ValueError(f"tau_power must be 1 or 2, got {tau_power}.")
    if edit_mask.ndim != 1 or channels < 1:
        raise ValueError(f"edit_mask must be [N] and channels at least 1, got {list(edit_mask.shape)} and {channels}.")
    like = edit_mask if edit_mask.dtype == torch.float64 else edit_mask.float()
    edit = checked_token_mask(edit_mask, edit_mask.shape[0], like=like)
    base = 1 - edit
    edit_count = (channels * edit.sum()).clamp(min=1)
    base_count = (channels * base.sum()).clamp(min=1)
    return edit / (edit_count * tau_edit**tau_power) + base / (base_count * tau_base**tau_power)


def masked_distance(
    candidates: Tensor,
    anchor: Tensor,
    edit_mask: Tensor,
    tau_edit: float = TAU_EDIT,
    tau_base: float = TAU_BASE,
    tau_power: int = 2,
) -> Tensor:
    """Squared masked distance d^2 (Eq. B.1-B.3, adopted) of each candidate to the anchor(s), [G] or [B, G].

    Differences and sums are float32 (float64 for float64 input), anchor by anchor: at most [G, N, C] at a
    time. The identity |x|^2 + |y|^2 - 2xy would need less memory, but loses all digits when an anchor is near
    its candidate.

    Args:
        candidates: [G, N, C], constants.
        anchor: [N, C] or [B, N, C]; the gradient flows here.
        edit_mask: [N] in [0, 1], 1 = editable.
        tau_edit, tau_base, tau_power: see `region_weights`.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    if candidates.ndim != 3 or anchor.ndim not in (2, 3) or anchor.shape[-2:] != candidates.shape[1:]:
        raise ValueError(
            "candidates must be [G, N, C] and anchor [N, C] or [B, N, C] with the same N and C, got "
            f"{list(candidates.shape)} and {list(anchor.shape)}."
        )
    _, tokens, channels = candidates.shape
    candidates, anchor = at_least_float32(candidates), at_least_float32(anchor)
    mask = checked_token_mask(edit_mask, tokens, like=anchor)
    weights = region_weights(mask, channels, tau_edit, tau_base, tau_power)

    def to_all(one: Tensor) -> Tensor:
        return ((candidates - one).square().sum(dim=-1) * weights).sum(dim=-1)

    if anchor.ndim == 2:
        return to_all(anchor)
    return torch.stack([to_all(one) for one in anchor])


def log_policy(distance: Tensor) -> Tensor:
    """log pi(i) = log softmax_i(-d_i^2 / 2) over the last axis (arXiv 2604.09386 Eq. 14), at least float32.

    Args:
        distance: squared distances [..., G].
    """
    return torch.log_softmax(-0.5 * at_least_float32(distance), dim=-1)


def policy_ratio(log_new: Tensor, log_old: Tensor) -> Tensor:
    """rho = pi_new / pi_old (arXiv 2604.09386 Eq. 15), any shape; exactly 1 where both logs are equal."""
    return torch.exp(log_new - log_old)


Clip = float | tuple[float, float]
"""How far a ratio may go before its gradient stops: epsilon in (0, 1), or one below and one above 1."""


@dataclass(frozen=True)
class ClippedObjective:
    """A clipped objective, and what clipping did.

    Attributes:
        objective: J, to be maximised; differentiable. [B], one per anchor, from `clipped_objective`; one per ratio
            from `clipped_terms`.
        clipped_fraction: share of the ratios whose clipped branch is the smaller one, so that they carry no
            gradient; 0-dim, no gradient.
        ratio_deviation: largest |rho - 1|; 0-dim, no gradient. Must be 0 before the first update.
    """

    objective: Tensor
    clipped_fraction: Tensor
    ratio_deviation: Tensor


def clipped_objective(log_new: Tensor, log_old: Tensor, advantages: Tensor, clip: Clip) -> ClippedObjective:
    """J_k = sum_i min(A_i rho_ik, A_i clip(rho_ik, 1 - clip, 1 + clip)) per anchor k; the caller averages.

    A plain sum over the candidates, as in Neighbor GRPO (arXiv 2511.16955 Eq. 9), not an expectation under
    pi_old (arXiv 2604.09386 Eq. 5 leaves that open). `clip` follows the metric: 1e-4 to 1e-3 for
    `masked_distance`.

    Args:
        log_new: [B, G], log-policy under the current weights.
        log_old: [B, G], under the weights of the rollout; constants (detached here).
        advantages: [G], constants.
        clip: see `clipped_terms`.

    Raises:
        ValueError: for mismatched shapes or a clip outside its range.
    """
    if log_new.ndim != 2 or log_old.shape != log_new.shape or advantages.shape != log_new.shape[1:]:
        raise ValueError(
            "log_new and log_old must be [B, G] and advantages [G], got "
            f"{list(log_new.shape)}, {list(log_old.shape)} and {list(advantages.shape)}."
        )
    terms = clipped_terms(log_new, log_old, advantages, clip)
    return replace(terms, objective=terms.objective.sum(dim=-1))


def clipped_terms(log_new: Tensor, log_old: Tensor, advantages: Tensor, clip: Clip) -> ClippedObjective:
    """min(A rho, A clip(rho, 1 - low, 1 + high)) element by element, with rho = exp(log_new - log_old).

    Args:
        log_new: any shape, under the current weights.
        log_old: broadcastable to it, constants (detached here).
        advantages: likewise.
        clip: epsilon for both sides, or (low, high); both in (0, 1).

    Raises:
        ValueError: for a clip outside its range.
    """
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    if not (0 < low < 1 and 0 < high < 1):
        raise ValueError(f"clip must be in (0, 1), got {clip}.")
    log_old, weight = log_old.detach(), advantages.detach().to(log_new)
    # What has no advantage has no part in J, however far its ratio has gone: 0 * inf would be NaN.
    ratio = policy_ratio(*(torch.where(weight == 0, 0, logs) for logs in (log_new, log_old)))
    free, clipped = weight * ratio, weight * ratio.clamp(1 - low, 1 + high)
    with torch.no_grad():
        clipped_fraction = (clipped < free).to(ratio.dtype).mean()
        ratio_deviation = (policy_ratio(log_new, log_old) - 1).abs().max()
    return ClippedObjective(torch.minimum(free, clipped), clipped_fraction, ratio_deviation)


def categorical_kl(log_old: Tensor, log_new: Tensor) -> Tensor:
    """KL(pi_old || pi_new) = sum_i pi_old(i) (log pi_old(i) - log pi_new(i)), exact, over the last axis.

    Args:
        log_old: [..., G] log-probabilities, constants (detached here).
        log_new: [..., G] log-probabilities; the gradient flows here and is zero where both are equal.

    Returns:
        [...], nats.
    """
    log_old = log_old.detach()
    # What pi_old never does adds nothing (0 log 0 = 0), also where pi_new never does it either.
    never = log_old == -torch.inf
    difference = torch.where(never, 0, log_old) - torch.where(never, 0, log_new)
    return (log_old.exp() * difference).sum(dim=-1)
