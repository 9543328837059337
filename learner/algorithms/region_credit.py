"""From advantages per region to advantages per token, and regions with a soft border."""

import torch
from torch import Tensor
from torch.nn import functional

from editing.token_mask import at_least_float32, checked_regions, checked_token_mask


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
