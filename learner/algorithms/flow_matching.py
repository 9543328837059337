"""Losses of given latents in velocity space: supervised fine-tuning, AWM and Diffusion-DPO.

All are made of the flow-matching error mean (v - (noise - x0))^2 at x_t = (1 - sigma) x0 + sigma noise
(`editing.flow.forward_noised`), the noise drawn by the caller. Every function returns one value per sample, [B]; the
caller averages.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from editing.token_mask import at_least_float32
from learner.algorithms.token_mean import weighted_token_mean


def flow_matching_loss(v: Tensor, x0: Tensor, noise: Tensor, mask_weight: Tensor | None = None) -> Tensor:
    """mean (v - (noise - x0))^2 per sample, [B]: supervised fine-tuning on x0 (arXiv 2210.02747, linear path).

    Its negative is AWM's log-likelihood, see `awm_loss`.

    Args:
        v: [B, N, C], velocity at the forward-noised x0; the gradient flows here.
        x0: [B, N, C], clean latents, constants (detached here).
        noise: [B, N, C], constants (detached here).
        mask_weight: weight of each token, [N], or [B, N] where samples differ; >= 0. The mean is over weights, so equal
            ones change nothing; a sample whose weights are all zero costs nothing. None = all tokens alike.

    Raises:
        ValueError: for mismatched shapes, or a weight that is negative or not finite.
    """
    if v.ndim != 3 or x0.shape != v.shape or noise.shape != v.shape:
        raise ValueError(
            "v, x0 and noise must have the same shape [B, N, C], got "
            f"{list(v.shape)}, {list(x0.shape)} and {list(noise.shape)}."
        )
    v = at_least_float32(v)
    error = (v - (noise.detach().to(v) - x0.detach().to(v))).square()
    return error.mean(dim=(1, 2)) if mask_weight is None else weighted_token_mean(error, mask_weight)


def awm_loss(log_new: Tensor, log_old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """-min(A rho, A clip(rho, 1 - clip, 1 + clip)) per sample, [B], rho = exp(l - l_old): advantage-weighted matching.

    AWM, arXiv 2509.25050, with its "uniform" weighting: l = -`flow_matching_loss`(v, x0, noise), a mean over elements,
    without the powers and noise-level factors that released code (scxue/advantage_weighted_matching @ be51372) offers;
    a caller who wants them applies them to l. At the old weights the gradient of v is 2 A (v - (noise - x0)) / (N C).
    The KL to a moving average of the weights is left to the caller.

    Args:
        log_new: l [B] under the current weights; the gradient flows here.
        log_old: l [B] under those of the rollout, at the same x_t and noise; constants (detached here).
        advantages: [B], constants.
        clip: 0 < clip <= 1; released configurations say 1, which only bounds rho by 2.

    Raises:
        ValueError: for mismatched shapes or a clip outside its range.
    """
    if log_new.ndim != 1 or log_old.shape != log_new.shape or advantages.shape != log_new.shape:
        raise ValueError(
            "log_new, log_old and advantages must be [B], got "
            f"{list(log_new.shape)}, {list(log_old.shape)} and {list(advantages.shape)}."
        )
    if not 0 < clip <= 1:
        raise ValueError(f"clip must be in (0, 1], got {clip}.")
    log_new = at_least_float32(log_new)
    weight = advantages.detach().to(log_new)
    # A sample without an advantage has no part in the loss, however far its ratio has gone: 0 * inf would be NaN.
    ratio = torch.where(weight == 0, 0, log_new - log_old.detach().to(log_new)).exp()
    return -torch.minimum(weight * ratio, weight * ratio.clamp(1 - clip, 1 + clip))


def dpo_loss(
    v_w: Tensor, v_w_ref: Tensor, target_w: Tensor, v_l: Tensor, v_l_ref: Tensor, target_l: Tensor, beta: float
) -> Tensor:
    """Diffusion-DPO's loss for flow matching per pair, [B] (arXiv 2311.12908 Eq. 14, with velocities).

        -log sigmoid(-beta / 2 * ((e(v_w) - e(v_w_ref)) - (e(v_l) - e(v_l_ref)))),    e(v) = mean (v - target)^2

    w is the preferred sample of a pair, l the other, target = noise - x0 of each; the paper draws noise and level once
    per pair. e is a mean over elements without a weight of the noise level, as in its released code: the paper's norm
    is a sum, and its T omega(lambda), a constant, is part of beta. log 2 where v is the reference.

    Args:
        v_w, v_l: [B, N, C], velocities of preferred and other samples; the gradient flows here.
        v_w_ref, v_l_ref: [B, N, C], those of the reference weights, constants (detached here).
        target_w, target_l: [B, N, C], constants (detached here).
        beta: > 0.

    Raises:
        ValueError: for mismatched shapes or a beta that is not above 0.
    """
    six = (v_w, v_w_ref, target_w, v_l, v_l_ref, target_l)
    if v_w.ndim != 3 or any(one.shape != v_w.shape for one in six):
        raise ValueError(
            "velocities, references and targets must have the same shape [B, N, C], got "
            + ", ".join(str(list(one.shape)) for one in six)
            + "."
        )
    if not beta > 0:  # NaN fails too
        raise ValueError(f"beta must be above 0, got {beta}.")
    gained = _beyond_reference(v_w, v_w_ref, target_w) - _beyond_reference(v_l, v_l_ref, target_l)
    return -logsigmoid(-beta / 2 * gained)


def _beyond_reference(v: Tensor, v_ref: Tensor, target: Tensor) -> Tensor:
    """mean (v - target)^2 - mean (v_ref - target)^2 per sample, [B]."""
    v = at_least_float32(v)
    reference, target = v_ref.detach().to(v), target.detach().to(v)
    return ((v - target).square() - (reference - target).square()).mean(dim=(1, 2))
