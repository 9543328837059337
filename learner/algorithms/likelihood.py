"""The likelihood of random steps, token by token: log-density, region ratios, clipped objective, Gaussian KL.

Flow-GRPO (arXiv 2505.05470) and what follows it compare how likely the stored next state is under the current and the
old weights. Its log-probabilities are means over the elements of the latents, so ratios stay near 1 and clips are as
small as 1e-4. Means over the tokens of a region give each region a ratio of its own (adopted for SpatialFlow-GRPO,
arXiv 2606.26872, whose policy loss is not public); one region of all tokens is Flow-GRPO.

    log_new, log_old    token_log_prob      [B, N]   under the current weights, and those of the rollout
    log_ratio           log_new - log_old   [B, N]   or `guarded_log_ratio`
    region ratios       region_log_ratio    [B, R]
    J                   region_objective    [B, R]

B counts samples: pairs of candidate and random step. Everything is float32 at least. Invariant: where log_new and
log_old are equal, every ratio is exactly 1.
"""

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from editing.flow import SdeKind
from editing.token_mask import at_least_float32, checked_regions
from learner.algorithms.surrogate import Clip, ClippedObjective, clipped_terms

RegionWeighting = Literal["area", "uniform"]
"""`area`: a region counts by its share of the tokens. `uniform`: all regions that have tokens count alike."""

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def token_log_prob(x_next: Tensor, mean: Tensor, std: Tensor, kind: SdeKind) -> Tensor:
    """Log-density [B, N] of the next state, the mean over the channels of each token.

        sde, dance  -(x_next - mean)^2 / (2 std^2) - log std - log sqrt(2 pi)
        cps         -(x_next - mean)^2

    Both as in the released code of Flow-GRPO, yifan123/flow_grpo @ ac4c86e. Without 1 / (2 std^2) the ratios of `cps`
    are closer to 1, and its clip is 1e-5.

    Args:
        x_next: [B, N, C], the stored next state; a constant (detached here).
        mean: [B, N, C], of `editing.flow.sde_moments`; the gradient flows here.
        std: [B, 1, 1] or 0-dim, above 0; not read for `cps`.
        kind: the kind of the step.

    Raises:
        ValueError: for another kind, mismatched shapes, or a std that is not above 0 (a level of 0 has no density).
    """
    _check_kind(kind)
    _check_states(x_next=x_next, mean=mean)
    mean = at_least_float32(mean)
    squares = (x_next.detach().to(mean.dtype) - mean).square()
    if kind == "cps":
        return -squares.mean(dim=-1)
    std = _checked_std(std, mean)
    return (-squares / (2 * std.square()) - std.log() - LOG_SQRT_2PI).mean(dim=-1)


def guarded_log_ratio(log_new: Tensor, log_old: Tensor, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    """GRPO-Guard's log-ratio [B, N] (arXiv 2510.22319): (log_new - log_old) std + (mean - mean_old)^2 / (2 std).

    The second term is the mean over the channels. With x_next = mean_old + std z both add up to the mean of
    (mean - mean_old) z. So under the old weights it is 0 on average at any distance of the means, where the plain
    log-ratio is negative, and its gradient w.r.t. the mean at the old weights is z / C at every step. The ratio, the
    exponential of the mean over D elements, is exp(mse / (2 D)) on average, mse the mean of (mean - mean_old)^2.

    The released code, yifan123/flow_grpo, also divides the loss of a step by its length sigma - sigma_next; that is
    the caller's business.

    Args:
        log_new, log_old: [B, N], `token_log_prob` of kind `sde` or `dance` (that of `cps` is no density); log_old is a
            constant (detached here).
        mean, mean_old: [B, N, C], of the step under the current and the old weights; mean_old is a constant.
        std: [B, 1, 1] or 0-dim, above 0.

    Raises:
        ValueError: for mismatched shapes or a std that is not above 0.
    """
    _check_states(mean=mean, mean_old=mean_old)
    _check_log_probs(log_new, log_old, mean.shape[:2])
    mean = at_least_float32(mean)
    std = _checked_std(std, mean)
    drift = (mean - mean_old.detach().to(mean.dtype)).square() / (2 * std)
    per_token = std if std.ndim == 0 else std.squeeze(-1)
    return at_least_float32(log_new - log_old.detach()) * per_token + drift.mean(dim=-1)


def region_log_ratio(log_ratio: Tensor, regions: Tensor) -> Tensor:
    """Log-ratio [B, R] of each region, the mean over its tokens: sum_u M_r(u) l(u) / sum_u M_r(u).

    A region without tokens has log-ratio 0 without a gradient; `region_weighting` reports it by weight 0, so that it
    has no term in `region_objective`. Flow-GRPO's ratio is that of one region of all tokens, `torch.ones(1, N)`.

    Args:
        log_ratio: [B, N], log_new - log_old (log_old detached), or `guarded_log_ratio`.
        regions: [R, N] in [0, 1]; may be soft, overlap, or be empty.

    Raises:
        ValueError: for mismatched shapes or values outside [0, 1].
    """
    if log_ratio.ndim != 2:
        raise ValueError(f"log_ratio must be [B, N], got {list(log_ratio.shape)}.")
    log_ratio = at_least_float32(log_ratio)
    # In float64: the shares of a region of which little is left after softening still add up to one.
    shares = checked_regions(regions, log_ratio.shape[1], like=log_ratio.double())
    counts = shares.sum(dim=1, keepdim=True)
    means = torch.where(counts > 0, shares / counts, 0).to(log_ratio.dtype)
    # Not a matrix product, which may run in TensorFloat32.
    return torch.stack([(log_ratio * weights).sum(dim=1) for weights in means], dim=1)


def region_weighting(regions: Tensor, weighting: RegionWeighting = "area") -> Tensor:
    """Weight [R] of each region in the objective; exactly 0 for a region without tokens.

        area     sum_u M_r(u) / N: together 1 when the regions share out the tokens
        uniform  1 / (number of regions that have tokens)

    Both adopted (SpatialFlow-GRPO, arXiv 2606.26872, weighs its regions by weights that are not public).

    Args:
        regions: [R, N] in [0, 1].
        weighting: "area" or "uniform".

    Raises:
        ValueError: for another weighting, a wrong shape, or values outside [0, 1].
    """
    if weighting not in get_args(RegionWeighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(RegionWeighting))}, got {weighting!r}.")
    like = at_least_float32(regions) if regions.is_floating_point() else regions.float()
    shares = checked_regions(regions, regions.shape[-1], like=like)
    if weighting == "area":
        return shares.mean(dim=1)
    present = (shares > 0).any(dim=1).to(shares.dtype)
    return present / present.sum().clamp(min=1)


def region_objective(log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip: Clip) -> ClippedObjective:
    """J_ir = w_r min(A_ir rho_ir, A_ir clip(rho_ir, 1 - low, 1 + high)) per sample and region; the caller sums over r.

    Adopted for SpatialFlow-GRPO (arXiv 2606.26872) on Flow-GRPO's clipped objective (arXiv 2505.05470). A region of
    weight 0 gives exactly 0 and no gradient. Clipped fraction and ratio deviation are those of all [B, R] ratios; the
    ones of empty regions are 1 and never clipped.

    Args:
        log_ratio: [B, R], of `region_log_ratio`.
        advantages: [B, R], constants.
        weights: [R], of `region_weighting`, constants.
        clip: epsilon, or (low, high), see `clipped_terms`: about 1e-4 for `sde` and `dance`, 1e-5 for `cps`.

    Returns:
        `ClippedObjective` with objective [B, R].

    Raises:
        ValueError: for mismatched shapes, a clip outside its range, or a weight that is negative or not finite.
    """
    if log_ratio.ndim != 2 or advantages.shape != log_ratio.shape or weights.shape != log_ratio.shape[1:]:
        raise ValueError(
            "log_ratio and advantages must be [B, R] and weights [R], got "
            f"{list(log_ratio.shape)}, {list(advantages.shape)} and {list(weights.shape)}."
        )
    weights = weights.detach().to(log_ratio)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"weights of regions must be finite and at least 0, got {weights.tolist()}.")
    terms = clipped_terms(log_ratio, log_ratio.new_zeros(()), torch.where(weights > 0, advantages, 0), clip)
    return replace(terms, objective=weights * terms.objective)


def gaussian_kl(
    mean: Tensor,
    mean_ref: Tensor,
    std: Tensor,
    kind: SdeKind,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
) -> Tensor:
    """KL [B] to the reference, the mean over elements of (mean - mean_ref)^2 / (2 s^2).

    As in the released code, yifan123/flow_grpo @ 74db691 (scripts/train_flux_kontext.py): s is the strength of the
    noise without the length of the step, std / sqrt(sigma - sigma_next) for `sde` and `dance`, and std itself for
    `cps`. So for the first two it is the KL of the two Gaussians (arXiv 2505.05470), per element, times
    sigma - sigma_next.

    Args:
        mean: [B, N, C], under the current weights; the gradient flows here.
        mean_ref: [B, N, C], under the reference weights; a constant (detached here).
        std: [B, 1, 1] or 0-dim, above 0.
        kind: the kind of the step.
        sigma, sigma_next: numbers, or one per sample [B]; the noise levels of the step, not read for `cps`.

    Raises:
        ValueError: for another kind, mismatched shapes, a std that is not above 0, or sigma_next not below sigma.
    """
    _check_kind(kind)
    _check_states(mean=mean, mean_ref=mean_ref)
    mean = at_least_float32(mean)
    variance = _checked_std(std, mean).square()
    if kind != "cps":
        length = torch.as_tensor(sigma - sigma_next, dtype=mean.dtype, device=mean.device)
        if length.shape not in ((), mean.shape[:1]) or not bool((length > 0).all()):
            raise ValueError(
                f"noise levels: expected numbers or [{mean.shape[0]}], sigma_next below sigma, got {sigma_next} after "
                f"{sigma}."
            )
        variance = variance / length.reshape(-1, 1, 1)
    return ((mean - mean_ref.detach().to(mean.dtype)).square() / (2 * variance)).mean(dim=(1, 2))


def _check_kind(kind: SdeKind) -> None:
    if kind not in get_args(SdeKind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(SdeKind))}, got {kind!r}.")


def _check_states(**states: Tensor) -> None:
    shapes = [list(state.shape) for state in states.values()]
    if len(shapes[0]) != 3 or shapes.count(shapes[0]) < len(shapes):
        raise ValueError(f"{' and '.join(states)} must be [B, N, C] alike, got {' and '.join(map(str, shapes))}.")


def _check_log_probs(log_new: Tensor, log_old: Tensor, shape: torch.Size) -> None:
    if log_new.shape != shape or log_old.shape != shape:
        raise ValueError(
            f"log_new and log_old must be [B, N], {list(shape)} here, got {list(log_new.shape)} and "
            f"{list(log_old.shape)}."
        )


def _checked_std(std: Tensor, like: Tensor) -> Tensor:
    """`std` in the dtype of `like` [B, N, C], detached."""
    if std.shape not in ((), (like.shape[0], 1, 1)):
        raise ValueError(f"std: expected a 0-dim tensor or [{like.shape[0]}, 1, 1], got {list(std.shape)}.")
    std = std.detach().to(like)
    if not bool((std > 0).all()):  # NaN fails too
        raise ValueError(
            f"std: expected values above 0, got {std.min().item():g}; a step without noise has no density."
        )
    return std
