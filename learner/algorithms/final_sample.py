"""Losses of the final sample in x0 space: DiffusionNFT and the policy gradients of an evidence lower bound.

A candidate's final latents x0 are noised forward (`editing.flow.forward_noised`) to x_t, and the velocity there is
judged by the clean latents that it points at, x0_hat = x_t - sigma * v. So the rollout's message is x0 alone, by any
solver. Losses in velocity space are in `learner.algorithms.flow_matching`.

Every function returns one value per sample, [B]; the caller averages over samples and noise levels and adds an anchor
to the base (`learner.algorithms.preservation.velocity_anchor`). The error is divided by its own size, a constant:

    e = mean (x0_hat - x0)^2 / w,    w = max(mean |x0_hat - x0|, FLOOR)

Invariant: at v = v_old the gradient of `nft_loss` with the optimality of an advantage A (|A| <= clip) is that of the
EPG loss -A f divided by `clip`, whatever beta is, and both are zero where A is.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from editing.flow import predicted_clean
from editing.token_mask import at_least_float32

PolicyGradient = Literal["epg", "epg_noratio", "pepg", "pepg_noratio"]
"""`epg`: advantage times likelihood. `pepg`: the same, minus the log ratio to the old weights. `noratio`: rho = 1."""

FLOOR = 1e-5
"""The least size of an error that it is divided by, in latent units (released code of DiffusionNFT)."""


def nft_velocities(v: Tensor, v_old: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(v+, v-), the implicit positive and negative velocities of arXiv 2509.16117, each [B, N, C].

        v+ = (1 - beta) v_old + beta v        v- = (1 + beta) v_old - beta v

    Args:
        v: [B, N, C]; the gradient flows here.
        v_old: [B, N, C], of the weights of the rollout, constants (detached here).
        beta: > 0; 1 makes v+ the velocity itself and v- its mirror image about v_old.

    Raises:
        ValueError: for mismatched shapes or a beta that is not above 0.
    """
    if v.ndim != 3 or v_old.shape != v.shape:
        raise ValueError(
            f"v and v_old must have the same shape [B, N, C], got {list(v.shape)} and {list(v_old.shape)}."
        )
    if not beta > 0:  # NaN fails too
        raise ValueError(f"beta must be above 0, got {beta}.")
    v = at_least_float32(v)
    old = v_old.detach().to(v)
    return (1 - beta) * old + beta * v, (1 + beta) * old - beta * v


def nft_loss(
    x0: Tensor, x_t: Tensor, sigma: Tensor, v: Tensor, v_old: Tensor, optimality: Tensor, beta: float
) -> Tensor:
    """DiffusionNFT's loss r e+ / beta + (1 - r) e- / beta per sample, [B] (arXiv 2509.16117).

    e+ and e- are the weighted errors (see the module) of v+ and v- (`nft_velocities`). As in released code
    (NVlabs/DiffusionNFT @ 24af555), where it differs from the paper: each has its own w, and both are divided by beta,
    so that the gradient at v = v_old does not depend on beta:

        d loss / d v = (1 - 2 r) * 2 sigma (x0_hat - x0) / (w N C)

    That code multiplies the mean by 5, the clip of its advantages. This is left to the caller.

    Args:
        x0: [B, N, C], final latents, constants (detached here).
        x_t: [B, N, C], x0 noised to sigma, constants (detached here).
        sigma: [B], in [0, 1].
        v: [B, N, C], velocity at x_t; the gradient flows here.
        v_old: [B, N, C], likewise under the weights of the rollout, constants (detached here).
        optimality: r [B] in [0, 1], see `optimality`, constants.
        beta: > 0.

    Raises:
        ValueError: for mismatched shapes or values out of range (NaN included).
    """
    positive, negative = nft_velocities(v, v_old, beta)
    share = _one_per_sample(optimality, positive, "optimality")
    if not bool(((share >= 0) & (share <= 1)).all()):  # NaN fails too
        raise ValueError(
            f"optimality: expected values in [0, 1], got values from {share.min().item():g} to {share.max().item():g}."
        )
    good, bad = (_weighted_error(x0, x_t, sigma, velocity) for velocity in (positive, negative))
    return (share * good + (1 - share) * bad) / beta


def optimality(advantages: Tensor, clip: float = 5.0) -> Tensor:
    """r = clip(A / (2 * clip) + 1/2, 0, 1), any shape: the probability of being good that DiffusionNFT reads from A.

    As in released code (NVlabs/DiffusionNFT @ 24af555, CoCoEdit and Edit-R1 likewise), which cuts A to [-clip, clip]
    first; the result is the same.

        A = (-7, -5, 0, 2.5, 5), clip 5  ->  (0, 0, 0.5, 0.75, 1)

    Raises:
        ValueError: for a clip that is not above 0.
    """
    if not clip > 0:  # NaN fails too
        raise ValueError(f"clip must be above 0, got {clip}.")
    return (at_least_float32(advantages) / (2 * clip) + 0.5).clamp(0, 1)


def elbo(x0: Tensor, x_t: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """f = -mean (x0_hat - x0)^2 / w per sample, [B]: what stands for a log-likelihood of x0; w see the module.

    The "adaptive" estimator of the design-space study behind jaemoo-choi/rethinking-diffusion-rl, at guidance 1. A mean
    over elements where a likelihood would be a sum, so that log ratios stay small. w is a constant for the gradient
    alone: where the error only changes in size, f changes by half of what its gradient says.

    Args:
        x0, x_t, sigma, v: see `nft_loss`; the gradient flows through v.

    Raises:
        ValueError: for mismatched shapes or a sigma out of range (NaN included).
    """
    return -_weighted_error(x0, x_t, sigma, v)


def policy_gradient_loss(f_new: Tensor, f_old: Tensor, advantages: Tensor, form: PolicyGradient) -> Tensor:
    """The policy-gradient loss of a likelihood estimate (`elbo`) per sample, [B].

        epg     -rho A f          D = stop-gradient(f) - f_old,  rho = e^D; "noratio": rho = 1
        pepg    -rho (A - D) f

    As in jaemoo-choi/rethinking-diffusion-rl: the ratio is a constant, so the gradient is that of f times -rho A. With
    the factor A - D the pull ends where the log ratio has reached the advantage. At the old weights all four are equal.

    Args:
        f_new: [B], under the current weights; the gradient flows here.
        f_old: [B], under those of the rollout, at the same x_t; constants (detached here).
        advantages: [B], constants.
        form: see `PolicyGradient`.

    Raises:
        ValueError: for mismatched shapes or an unknown form.
    """
    if form not in get_args(PolicyGradient):
        raise ValueError(f"form must be one of {', '.join(get_args(PolicyGradient))}, got {form!r}.")
    if f_new.ndim != 1 or f_old.shape != f_new.shape or advantages.shape != f_new.shape:
        raise ValueError(
            "f_new, f_old and advantages must be [B], got "
            f"{list(f_new.shape)}, {list(f_old.shape)} and {list(advantages.shape)}."
        )
    f_new = at_least_float32(f_new)
    moved = f_new.detach() - f_old.detach().to(f_new)
    credit = advantages.detach().to(f_new)
    if form.startswith("pepg"):
        credit = credit - moved
    if not form.endswith("noratio"):
        # What has no credit has no part in the loss, however far its ratio has gone: 0 * inf would be NaN.
        credit = credit * torch.exp(torch.where(credit == 0, 0, moved))
    return -credit * f_new


def _weighted_error(x0: Tensor, x_t: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """mean (x0_hat - x0)^2 / w per sample, [B]."""
    if v.ndim != 3 or x0.shape != v.shape or x_t.shape != v.shape:
        raise ValueError(
            "x0, x_t and v must have the same shape [B, N, C], got "
            f"{list(x0.shape)}, {list(x_t.shape)} and {list(v.shape)}."
        )
    v = at_least_float32(v)
    level = _one_per_sample(sigma, v, "sigma")
    if not bool(((level >= 0) & (level <= 1)).all()):  # NaN fails too
        raise ValueError(f"sigma: expected values in [0, 1] (1 = noise, 0 = image), got {sigma.tolist()!s:.60}.")
    error = predicted_clean(x_t.detach().to(v), v, level) - x0.detach().to(v)
    size = error.detach().abs().mean(dim=(1, 2)).clamp(min=FLOOR)
    return error.square().mean(dim=(1, 2)) / size


def _one_per_sample(values: Tensor, like: Tensor, name: str) -> Tensor:
    """`values` [B] as constants in the dtype and on the device of `like` [B, N, C]."""
    if values.shape != like.shape[:1]:
        raise ValueError(f"{name}: expected one value per sample, [{like.shape[0]}], got {list(values.shape)}.")
    return values.detach().to(like)
