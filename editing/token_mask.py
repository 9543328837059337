"""Token masks as checked tensors: the one place that asserts their shape, range and polarity."""

import torch
from torch import Tensor


def checked_token_mask(edit_mask: Tensor, tokens: int, like: Tensor) -> Tensor:
    """`edit_mask` [tokens] on the device and in the dtype of `like`, every value in [0, 1].

    1 = editable, 0 = to be preserved; values in between (area-pooled masks) weigh a token into both regions.

    Raises:
        ValueError: for another shape, or a value outside [0, 1] (NaN included).
    """
    if edit_mask.shape != (tokens,):
        raise ValueError(
            f"edit_mask: expected one value per generated image token, shape [{tokens}], got {list(edit_mask.shape)}."
        )
    mask = edit_mask.to(device=like.device, dtype=like.dtype)
    # `not all inside` rather than `any outside`, so that NaN fails too.
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            f"edit_mask: expected values in [0, 1], 1 = editable, got values from {mask.min().item():g} to "
            f"{mask.max().item():g}. A mask read from an 8-bit image must be divided by 255 first."
        )
    return mask


def checked_regions(regions: Tensor, tokens: int, like: Tensor) -> Tensor:
    """`regions` [R, tokens] on the device and in the dtype of `like`, R >= 1, every value in [0, 1].

    Row r is the share of each token that belongs to region r. Regions may be soft, overlap, be empty or leave
    tokens out.

    Raises:
        ValueError: for another shape, or a value outside [0, 1] (NaN included).
    """
    if regions.ndim != 2 or regions.shape[0] < 1 or regions.shape[1] != tokens:
        raise ValueError(f"regions: expected at least one row of {tokens} token(s), [R, N], got {list(regions.shape)}.")
    shares = regions.to(device=like.device, dtype=like.dtype)
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(
            f"regions: expected values in [0, 1], got values from {shares.min().item():g} to {shares.max().item():g}."
        )
    return shares


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or unchanged when it is float64: half precision never enters a reduction."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
