"""Means over tokens that count by a weight, one per sample."""

import torch
from torch import Tensor


def weighted_token_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum_{u,c} w_u q_{u,c} / (C sum_u w_u) per sample, [B]; zero, with a zero gradient, where all weights are zero.

    Args:
        values: q [B, N, C].
        weights: w [N], or one row per sample [B, N]; >= 0, constants.

    Raises:
        ValueError: for mismatched shapes, or a weight that is negative or not finite.
    """
    if values.ndim != 3 or weights.shape not in (values.shape[1:2], values.shape[:2]):
        raise ValueError(
            f"values must be [B, N, C] and weights [N] or [B, N], got {list(values.shape)} and {list(weights.shape)}."
        )
    weights = weights.detach().to(values)
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("token weights must be finite and not negative.")
    total = weights.sum(dim=-1)
    return (values.mean(dim=-1) * weights).sum(dim=-1) / torch.where(total > 0, total, 1)
