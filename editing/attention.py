"""Share of the text's attention inside the edit mask, without materialising the attention.

Attention concentration (ACD), RC-GRPO-Editing, arXiv 2604.09386, Eq. 16-18. Each valid text token's attention
over the N generated image tokens sums to one, so its mass inside the mask is an attention call whose value is
the mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from editing.token_mask import at_least_float32, checked_token_mask


def attention_concentration(text_query: Tensor, image_key: Tensor, edit_mask: Tensor, text_valid: Tensor) -> Tensor:
    """ACD [B] of one block and step: N / |M| * mass inside M, mean over valid text tokens and heads.

    Range [0, N / |M|]; 1 = attention spread evenly over the image. Equal to Eq. 16-18 of arXiv 2604.09386
    without its eps, since the rows are renormalised over the N generated tokens. Computed in float32 at
    least, whatever the dtype of the inputs; memory stays linear in N where a fused attention kernel is
    available.

    Args:
        text_query: [B, H, V, D], after normalisation and rotary embedding.
        image_key: [B, H, N, D], likewise, generated image tokens only (no reference tokens).
        edit_mask: [N] or [B, N] in [0, 1], 1 = editable.
        text_valid: [B, V], True for text tokens, False for padding.

    Raises:
        ValueError: for mismatched shapes, an empty mask, or a sample without a valid text token.
    """
    weight = _token_weights(text_query, image_key, text_valid)
    batch, _, tokens, dim = image_key.shape
    query, key = _never_overflowing(text_query, image_key)
    masks = edit_mask[None] if edit_mask.ndim == 1 else edit_mask
    if masks.shape not in ((1, tokens), (batch, tokens)):
        raise ValueError(f"edit_mask: expected [{tokens}] or [{batch}, {tokens}], got {list(edit_mask.shape)}.")
    masks = checked_token_mask(masks.reshape(-1), masks.numel(), like=query).view(masks.shape)
    area = masks.sum(dim=-1)
    if not bool((area > 0).all()):
        raise ValueError(
            "edit_mask has no editable token, so there is no region to concentrate on; keep at least one "
            "token when the pixel mask is pooled to tokens."
        )
    # The mask is one column of a value as wide as the head: fused kernels want equal widths, and with a width
    # of one torch falls back to one that materialises the attention (2.4 times slower on CPU at 64 tokens).
    value = F.pad(masks[:, None, :, None], (0, dim - 1)).expand(batch, text_query.shape[1], tokens, dim)
    mass = F.scaled_dot_product_attention(query, key, value)[..., 0]
    return (tokens / area * (mass.mean(dim=1) * weight).sum(dim=-1)).to(weight.dtype)


def attention_map(text_query: Tensor, image_key: Tensor, text_valid: Tensor) -> Tensor:
    """Mean attention of the valid text tokens and all heads over the image tokens [B, N]; rows sum to one.

    For images in a gallery: it materialises the attention of one head at a time. (N / |M|) times its sum
    inside M is `attention_concentration`. Arguments and errors as there.
    """
    weight = _token_weights(text_query, image_key, text_valid)
    batch, heads, tokens, dim = image_key.shape
    text_query, image_key = _never_overflowing(text_query, image_key)
    total = image_key.new_zeros(batch, tokens)
    for head in range(heads):
        query, key = text_query[:, head], image_key[:, head]
        attention = torch.softmax(query @ key.transpose(-1, -2) / dim**0.5, dim=-1)
        total += (attention * weight[..., None]).sum(dim=1)
    return (total / heads).to(weight.dtype)


def _never_overflowing(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 at least, and in float64 where a product of theirs could be larger than any float32."""
    query, key = at_least_float32(query), at_least_float32(key)
    largest = float(query.abs().max()) * float(key.abs().max()) * query.shape[-1]
    return (query, key) if largest < torch.finfo(torch.float32).max else (query.double(), key.double())


def _token_weights(text_query: Tensor, image_key: Tensor, text_valid: Tensor) -> Tensor:
    """[B, V]: 1 / (number of valid tokens) on valid text tokens, 0 on padding; checks every shape but M's."""
    if (
        text_query.ndim != 4
        or image_key.ndim != 4
        or text_query.shape[:2] != image_key.shape[:2]
        or text_query.shape[3] != image_key.shape[3]
    ):
        raise ValueError(
            "expected text_query [B, H, V, D] and image_key [B, H, N, D] with the same B, H and D, got "
            f"{list(text_query.shape)} and {list(image_key.shape)}."
        )
    expected = (text_query.shape[0], text_query.shape[2])
    if text_valid.shape != expected:
        raise ValueError(f"text_valid: expected [B, V] = {list(expected)}, got {list(text_valid.shape)}.")
    if text_valid.dtype != torch.bool and not bool(((text_valid == 0) | (text_valid == 1)).all()):
        raise ValueError("text_valid: expected 0 or 1 (True for text tokens, False for padding), got other values.")
    valid = text_valid.to(device=text_query.device, dtype=at_least_float32(text_query).dtype)
    count = valid.sum(dim=-1, keepdim=True)
    if not bool((count > 0).all()):
        empty = [row for row, number in enumerate(count.flatten().tolist()) if number == 0]
        raise ValueError(
            f"every sample needs at least one valid text token; text_valid is all False in sample(s) {empty}."
        )
    return valid / count
