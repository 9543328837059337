"""Advantages per region and where they hold: credit, its expansion to tokens, and regions with a soft border."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from configs.reward_regions import BACKGROUND, EDIT
from editing.token_mask import at_least_float32, checked_regions, checked_token_mask


@dataclass(frozen=True, eq=False)
class RegionCredit:
    """The advantages of a group in each of its regions.

    Attributes:
        names: R regions; `edit` and `background`, which share out the tokens, and those of the task's own, which lie
            over them.
        masks: [R, N] in [0, 1].
        advantages: [G, R], zero where a candidate is invalid, and in a region without tokens.
        weights: [R], at least 0.
    """

    names: tuple[str, ...]
    masks: Tensor
    advantages: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        regions = (len(self.names),)
        if not self.masks.shape[:1] == self.advantages.shape[1:] == self.weights.shape == regions:
            raise ValueError(
                f"expected masks [R, N], advantages [G, R] and weights [R] of {', '.join(self.names)}, got "
                f"{list(self.masks.shape)}, {list(self.advantages.shape)} and {list(self.weights.shape)}."
            )

    def to(self, device: torch.device) -> "RegionCredit":
        """The same on a device, in float32."""
        moved = (value.to(device, torch.float32) for value in (self.masks, self.advantages, self.weights))
        return RegionCredit(self.names, *moved)

    def of(self, candidates: Tensor) -> "RegionCredit":
        """That of some candidates, a mask or indices."""
        return RegionCredit(self.names, self.masks, self.advantages[candidates], self.weights)

    @cached_property
    def tokens(self) -> Tensor:
        """Advantages [G, N] of each token, see `token_advantages`."""
        return token_advantages(self.advantages, self.masks, self.weights)

    @property
    def is_silent(self) -> bool:
        """True when no region has anything to say."""
        return not bool((self.advantages * self.weights != 0).any())


def shared_credit(advantages: Tensor, edit_mask: Tensor) -> RegionCredit:
    """The credit of candidates whose advantages [G] hold in the edit region [N] and in the background alike."""
    masks = torch.stack([edit_mask, 1 - edit_mask])
    shared = advantages[:, None] * (masks > 0).any(dim=1)
    return RegionCredit((EDIT, BACKGROUND), masks, shared, torch.ones_like(masks[:, 0]))


def region_credit(
    names: tuple[str, ...], masks: Tensor, advantages: Tensor, weights: Tensor, grid: tuple[int, int], ring: int
) -> RegionCredit:
    """The credit of a group, its regions with a border of `ring` tokens (`soft_border`).

    A region without tokens has no part in it: its advantages are zero.

    Args:
        names: of the regions.
        masks: [R, N] in [0, 1].
        advantages: [G, R], of `learner.algorithms.credit.region_advantages`.
        weights: [R].
        grid: tokens (rows, columns).
        ring: at least 0.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    soft = torch.stack([soft_border(mask, grid, ring) for mask in masks])
    there = (soft > 0).any(dim=1)
    return RegionCredit(names, soft, advantages * there, weights)


def token_advantages(advantages: Tensor, regions: Tensor, weights: Tensor | None = None) -> Tensor:
    """Advantages [G, N] of each token: A_i(u) = sum_r w_r M_r(u) A_ir.

    Adopted for Edit-GRPO (arXiv 2605.16951, whose equations are not public): with the regions M and 1 - M and weights
    (1, w_p) it is M(u) A^e_i + (1 - M(u)) w_p A^p_i, and a soft mask blends both. Where each region's advantages sum to
    zero over the candidates, so do those of every token. A token of no region has advantage 0.

    Args:
        advantages: [G, R], of `learner.algorithms.credit.region_advantages`; any number of candidates.
        regions: [R, N] in [0, 1].
        weights: [R], finite and at least 0; None = 1 for each.

    Returns:
        [G, N] in the dtype of the advantages, at least float32.

    Raises:
        ValueError: for mismatched shapes or values out of range.
    """
    if advantages.ndim != 2 or regions.ndim != 2 or regions.shape[0] != advantages.shape[1]:
        raise ValueError(
            "advantages must be [G, R] and regions [R, N] with the same R, got "
            f"{list(advantages.shape)} and {list(regions.shape)}."
        )
    advantages = at_least_float32(advantages)
    shares = checked_regions(regions, regions.shape[1], like=advantages)
    if weights is not None:
        if weights.shape != shares.shape[:1] or not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError(
                f"weights of regions: expected {shares.shape[0]} finite values of at least 0, got {weights.tolist()}."
            )
        shares = shares * weights.to(shares)[:, None]
    # Not a matrix product, which may run in TensorFloat32.
    return (advantages[:, :, None] * shares).sum(dim=1)


def soft_border(edit_mask: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """The mask [N] with a soft border: each token's mean over the box of `radius` tokens around it.

    Only tokens within `radius` rows and columns of a border change: a ring on either side of it, 1 or 2 tokens wide in
    the adopted variant of Edit-GRPO (arXiv 2605.16951). Outside the image the mask goes on as at its edge, so the edge
    of an image is no border.

        a row 0 0 0 1 1 1 with radius 1  ->  0 0 1/3 2/3 1 1

    Args:
        edit_mask: [N] in [0, 1], row by row, 1 = editable.
        grid: rows and columns of latent tokens, N of them together.
        radius: tokens, at least 0; 0 leaves the mask as it is.

    Returns:
        [N] in [0, 1], float32, or float64 for a float64 mask.

    Raises:
        ValueError: for another number of tokens than the grid has, values out of range, or a negative radius.
    """
    if min(grid) < 1 or radius < 0:
        raise ValueError(f"expected a grid of at least one token and a radius of at least 0, got {grid} and {radius}.")
    rows, columns = grid
    like = edit_mask if edit_mask.dtype == torch.float64 else edit_mask.float()
    mask = checked_token_mask(edit_mask, rows * columns, like=like)
    padded = functional.pad(mask.reshape(1, 1, rows, columns), [radius] * 4, mode="replicate")
    # The mean of ones may exceed 1 by rounding.
    return functional.avg_pool2d(padded, 2 * radius + 1, stride=1).reshape(-1).clamp(0, 1)
