"""CoCoEdit's two-sided region hinges: the good branch keeps the background, the bad branch changes the edit region.

arXiv 2602.14068; released code langmanbusi/CoCoEdit @ bee04e4. The branches are the one-step estimates of
`learner.algorithms.final_sample.nft_velocities`, and the caller weighs: r * lambda_ner * background + (1 - r) *
lambda_er * edit, with r the optimality.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import max_pool2d

from editing.token_mask import at_least_float32, checked_token_mask
from learner.algorithms.token_mean import weighted_token_mean

RADIUS = 1
"""Tokens by which both regions are eroded; with FLUX's packed latents as wide as the radius 2 of released code."""

RING_WEIGHT = 0.2
TAU_POSITIVE, TAU_NEGATIVE = 1e-3, 3e-2
"""Thresholds in squared latent units; defaults of released code, for FLUX's and Qwen's latents."""


@dataclass(frozen=True, eq=False)
class HingeRegions:
    """Weights [N] in [0, 1] of the tokens that count as `edit` and as `background`, constants."""

    edit: Tensor
    background: Tensor


@dataclass(frozen=True, eq=False)
class RegionHinges:
    """Hinges per sample, [B]: of the positive branch in the `background`, of the negative one in the `edit` region."""

    background: Tensor
    edit: Tensor


def hinge_regions(
    edit_mask: Tensor, grid: tuple[int, int], radius: int = RADIUS, ring_weight: float = RING_WEIGHT
) -> HingeRegions:
    """Both regions eroded by `radius`, plus `ring_weight` times the ring between them.

        edit = min M,   background = 1 - max M,   ring = max M - min M    over a square of 2 * radius + 1 tokens

    The square ends at the border of the image, which erodes nothing. As in released code the ring is one band along the
    outline, `radius` tokens on either side, and has the same weight in both regions; a region thinner than
    2 * radius + 1 tokens is ring alone. Soft masks give soft regions.

        M = (0, 0, 0, 1, 1, 1), radius 1, ring_weight .2  ->  edit (0, 0, .2, .2, 1, 1), background (1, 1, .2, .2, 0, 0)

    Scale: released code erodes by 2 on unpacked latents, 16 x H/8 x W/8, that is by 16 pixels. A packed token is 2 x 2
    of those, so its radius is 1 here; 2 here would be 32 pixels.

    Args:
        edit_mask: M [N] in [0, 1], 1 = editable.
        grid: (h, w) with N = h * w, row by row.
        radius: tokens; >= 0, where 0 leaves a hard mask as it is.
        ring_weight: in [0, 1].

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    if radius < 0 or not 0 <= ring_weight <= 1:
        raise ValueError(f"expected radius >= 0 and ring_weight in [0, 1], got {radius} and {ring_weight}.")
    if min(grid) < 1:
        raise ValueError(f"grid: expected at least one row and one column, got {grid}.")
    edit_mask = at_least_float32(edit_mask.detach())
    mask = checked_token_mask(edit_mask, grid[0] * grid[1], like=edit_mask).reshape(1, 1, *grid)

    def largest(values: Tensor) -> Tensor:
        return max_pool2d(values, kernel_size=2 * radius + 1, stride=1, padding=radius).reshape(-1)

    edit, background = 1 - largest(1 - mask), 1 - largest(mask)
    ring = (1 - edit - background).clamp(min=0)
    return HingeRegions(edit + ring_weight * ring, background + ring_weight * ring)


def region_hinges(
    positive: Tensor,
    negative: Tensor,
    background_reference: Tensor,
    edit_reference: Tensor,
    regions: HingeRegions,
    tau_positive: float = TAU_POSITIVE,
    tau_negative: float = TAU_NEGATIVE,
) -> RegionHinges:
    """The hinges of both branches, d the weighted mean of the squared difference in a region.

        background   max(0, d(positive, background_reference) - tau_positive)     L_ner^+
        edit         max(0, tau_negative - d(negative, edit_reference))           L_er^-

    The references are arguments because paper and code differ. The paper compares both branches with the source.
    Released code compares the positive one with the rolled-out x0 always, and the negative one with x0 or, with
    `use_reg_xsrc`, with the source. A region without tokens gives 0 here; in released code its d is 0, which makes the
    edit hinge a constant tau_negative.

    Args:
        positive: x0_hat of v+, [B, N, C]; the gradient flows here.
        negative: x0_hat of v-, [B, N, C]; the gradient flows here.
        background_reference: [N, C] or [B, N, C], constants (detached here).
        edit_reference: [N, C] or [B, N, C], constants (detached here).
        regions: see `hinge_regions`.
        tau_positive: up to which the background may be off; >= 0, in squared latent units.
        tau_negative: from which the edit region counts as changed; >= 0, in squared latent units.

    Raises:
        ValueError: for mismatched shapes or a negative threshold.
    """
    if not (tau_positive >= 0 and tau_negative >= 0):  # NaN fails too
        raise ValueError(f"thresholds must not be negative, got {tau_positive} and {tau_negative}.")
    if negative.shape != positive.shape:
        raise ValueError(
            "positive and negative must have the same shape [B, N, C], got "
            f"{list(positive.shape)} and {list(negative.shape)}."
        )
    off = _distance(positive, background_reference, regions.background)
    changed = _distance(negative, edit_reference, regions.edit)
    # Without this an empty region would count as one that has not changed.
    there = (regions.edit.sum() > 0).to(changed)
    return RegionHinges((off - tau_positive).clamp(min=0), there * (tau_negative - changed).clamp(min=0))


def _distance(x: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """Mean squared difference per sample, [B], weighted by token."""
    if x.ndim != 3 or reference.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            "estimates must be [B, N, C] and references [N, C] or [B, N, C], got "
            f"{list(x.shape)} and {list(reference.shape)}."
        )
    x = at_least_float32(x)
    return weighted_token_mean((x - reference.detach().to(x)).square(), weights)
