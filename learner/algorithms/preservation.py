"""Terms that hold what must not change, each a scalar to be minimised and weighted by the caller.

Adopted: they are not part of RC-GRPO-Editing. Where a term has no token (the background of a full edit mask) it is
a constant zero without a gradient; the caller counts such groups.
"""

from typing import Literal, get_args

from torch import Tensor

from editing.token_mask import at_least_float32, checked_token_mask

AnchorRegion = Literal["everywhere", "background", "edit"]

UNEDITED = 1e-3
"""Mean square distance from the source, in squared latent units, up to which a base leaves its source as it is."""


def source_anchored_background(
    x0_hat: Tensor, source: Tensor, edit_mask: Tensor, tolerance: float = 0.0, sigma: Tensor | None = None
) -> Tensor:
    """Mean over background tokens and samples of max(0, mean_c (x0_hat - source)^2 - tolerance) / sigma^2, a scalar.

    Outside the mask the truth is known: the source. `x0_hat` is the anchor's own one-step estimate
    (`editing.flow.predicted_clean`), so the term needs no further model call. With tolerance 0 it is the
    plain mean square; above 0 it is a hinge per token in the manner of CoCoEdit (arXiv 2602.14068), which
    ignores deviations that the autoencoder could not show. It must be balanced by a reward for the edit:
    alone it copies the source.

    With x0_hat = x - sigma v, the plain mean square (sigma None) has the gradient -2 sigma (x0_hat - source) in v. It
    fades at late steps, although the last one alone decides what the background will be. Divided by sigma^2 it is the
    squared distance of v from (x - source) / sigma, the velocity that leads straight to the source, and every step
    pulls alike.

    Args:
        x0_hat: [B, N, C]; the gradient flows here.
        source: [N, C], clean source latents of the same grid, constants.
        edit_mask: [N] in [0, 1], 1 = editable; soft tokens count by 1 - mask.
        tolerance: mean square below which a token costs nothing, in squared latent units; >= 0.
        sigma: [B], > 0, noise levels of the states that the estimates are made from; None: 1.

    Raises:
        ValueError: for mismatched shapes, a negative tolerance, or a noise level that is not above 0.
    """
    if x0_hat.ndim != 3 or source.shape != x0_hat.shape[1:]:
        raise ValueError(
            f"x0_hat must be [B, N, C] and source [N, C], got {list(x0_hat.shape)} and {list(source.shape)}."
        )
    if not tolerance >= 0:  # NaN fails too
        raise ValueError(f"tolerance must not be negative, got {tolerance}.")
    x0_hat = at_least_float32(x0_hat)
    excess = ((x0_hat - source.detach().to(x0_hat)).square().mean(dim=-1) - tolerance).clamp(min=0)
    if sigma is not None:
        if sigma.shape != x0_hat.shape[:1] or not bool((sigma > 0).all()):
            raise ValueError(f"sigma must be [{len(x0_hat)}], above 0, got {sigma.tolist()}.")
        excess = excess / sigma.detach().to(x0_hat)[:, None].square()
    return _weighted_mean(excess, 1 - checked_token_mask(edit_mask, excess.shape[1], like=excess))


def velocity_anchor(
    velocity: Tensor, reference: Tensor, edit_mask: Tensor, where: AnchorRegion = "everywhere"
) -> Tensor:
    """Mean square difference of the velocity to a reference velocity (the base model's, LoRA off), a scalar.

    Args:
        velocity: [B, N, C]; the gradient flows here.
        reference: [B, N, C], constants (detached here).
        edit_mask: [N] in [0, 1], 1 = editable; not read for "everywhere".
        where: "everywhere" (as CoCoEdit and Edit-R1 do), "background" tokens only, or "edit" tokens only: there it
            holds the edit as the base makes it, so that the background can be trained without any reward.

    Raises:
        ValueError: for mismatched shapes or an unknown region.
    """
    if where not in get_args(AnchorRegion):
        raise ValueError(f"where must be one of {', '.join(get_args(AnchorRegion))}, got {where!r}.")
    if velocity.ndim != 3 or reference.shape != velocity.shape:
        raise ValueError(
            "velocity and reference must have the same shape [B, N, C], got "
            f"{list(velocity.shape)} and {list(reference.shape)}."
        )
    velocity = at_least_float32(velocity)
    deviation = (velocity - reference.detach().to(velocity)).square().mean(dim=-1)
    if where == "everywhere":
        return deviation.mean()
    mask = checked_token_mask(edit_mask, deviation.shape[1], like=deviation)
    return _weighted_mean(deviation, mask if where == "edit" else 1 - mask)


def undone_edit(x0_hat: Tensor, base_x0_hat: Tensor, source: Tensor, edit_mask: Tensor) -> Tensor:
    """Mean over samples of l^2, l the share of the base's edit inside the mask that is undone, a scalar.

        l = sum_M <x0_hat - x0_base, z_source - x0_base> / (sum_M |z_source - x0_base|^2 + eps)

    0: the estimate has not moved toward the source; 1: the edit is gone. The pull on the background gives way into the
    mask in this one direction, which the mean square of the velocity anchor hardly feels: on the embedded benchmark l
    was .012 on held-out scenes where only that held the edit (weight 8, 120 steps), and .001 where the velocity inside
    the mask was the base's own. Where the base edits nothing there is nothing to undo: eps is 1e-3 per element.

    Args:
        x0_hat: [B, N, C], one-step estimates; the gradient flows here.
        base_x0_hat: [B, N, C], the base's at the same states, constants (detached here).
        source: [N, C], clean source latents, constants.
        edit_mask: [N] in [0, 1], 1 = editable.

    Raises:
        ValueError: for mismatched shapes.
    """
    if x0_hat.ndim != 3 or base_x0_hat.shape != x0_hat.shape or source.shape != x0_hat.shape[1:]:
        raise ValueError(
            "x0_hat and base_x0_hat must be [B, N, C] and source [N, C], got "
            f"{list(x0_hat.shape)}, {list(base_x0_hat.shape)} and {list(source.shape)}."
        )
    x0_hat = at_least_float32(x0_hat)
    base = base_x0_hat.detach().to(x0_hat)
    mask = checked_token_mask(edit_mask, x0_hat.shape[1], like=x0_hat)[:, None]
    back = source.detach().to(x0_hat) - base
    size = (mask * (back.square() + UNEDITED)).sum(dim=(1, 2))
    moved = (mask * (x0_hat - base) * back).sum(dim=(1, 2))
    return (moved / size.clamp(min=UNEDITED)).square().mean()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of [B, N] over samples and tokens, weighted by [N]; zero when all weights are."""
    total = weights.sum()
    if not bool(total > 0):
        return values.new_zeros(())
    return (values * weights).sum() / (total * values.shape[0])
