"""Attention concentration (ACD) of FLUX blocks, measured inside them without changing the fused attention.

The adopted reading of RC-GRPO-Editing (arXiv 2604.09386, Eq. 16-18) for joint attention: text queries
against the keys of the generated image tokens only, padding text tokens left out. The sequence is [text V |
generated N | reference N].
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxAttnProcessor,
    _get_qkv_projections,
)
from torch import Tensor

from editing.attention import attention_concentration, attention_map
from editing.editors.base import Condition, EditorError


class AttentionProbe:
    """Accumulates ACD over blocks and forward passes; see `editing.editors.base.Probe`."""

    def __init__(self, edit_mask: Tensor, blocks: int, capture_map: bool) -> None:
        """`edit_mask` [N] or [B, N]; `blocks`: number of blocks that report per forward pass."""
        if edit_mask.ndim not in (1, 2):
            raise EditorError(f"edit_mask: expected [N] or [B, N], got {list(edit_mask.shape)}.")
        self._edit_mask = edit_mask
        self._blocks = blocks
        self._capture_map = capture_map
        self._text_valid: Tensor | None = None
        self._rows = slice(0, 0)
        self._forget()

    def _forget(self) -> None:
        self._forwards = self._observed = 0
        self._sum: Tensor | None = None
        self._by_block: Tensor | None = None
        self._map: Tensor | None = None

    def begin(self, batch: int, condition: Condition) -> None:
        """Begin the forward passes of one batch; its parts follow as `rows`."""
        if torch.is_grad_enabled():
            # Recomputed blocks (gradient checkpointing) would count twice.
            raise EditorError("The attention probe works without gradients; wrap the call in torch.no_grad().")
        mask = self._edit_mask
        if mask.shape[-1] != condition.tokens or (mask.ndim == 2 and mask.shape[0] != batch):
            raise EditorError(
                f"The probe's edit_mask: expected [{condition.tokens}] or [{batch}, {condition.tokens}] for "
                f"this batch, got {list(mask.shape)}."
            )
        if self._sum is None:
            self._sum = torch.zeros(batch, device=condition.source_latents.device)
            self._by_block = self._sum.new_zeros(self._blocks, batch)
            if self._capture_map:
                self._map = self._sum.new_zeros(batch, condition.tokens)
        elif self._sum.shape[0] == 1:  # a group that forks: what was measured before is every sample's
            assert self._by_block is not None
            self._sum, self._by_block = self._sum.repeat(batch), self._by_block.repeat(1, batch)
            self._map = None if self._map is None else self._map.repeat(batch, 1)
        elif self._sum.shape[0] != batch:
            raise EditorError(f"The probe: expected {self._sum.shape[0]} samples as before, got {batch}; take() first.")
        self._text_valid = condition.text_valid
        self._forwards += 1

    def select(self, rows: slice) -> None:
        """Set the samples of the batch that the next transformer call computes."""
        self._rows = rows

    def observe(self, query: Tensor, key: Tensor) -> None:
        """Adds one block: query and key [b, V + N + reference, H, D] after normalisation and rotary
        embedding."""
        assert self._text_valid is not None and self._sum is not None, "observe() comes after begin()"
        assert self._by_block is not None
        text, tokens, rows = self._text_valid.shape[0], self._edit_mask.shape[-1], self._rows
        text_query = query[:, :text].transpose(1, 2)
        image_key = key[:, text : text + tokens].transpose(1, 2)
        valid = self._text_valid.expand(query.shape[0], text)
        mask = self._edit_mask if self._edit_mask.ndim == 1 else self._edit_mask[rows]
        acd = attention_concentration(text_query, image_key, mask, valid)
        self._sum[rows] += acd
        self._by_block[self._observed % self._blocks, rows] += acd  # a transformer call goes through all of them
        self._observed += 1
        if self._map is not None:
            self._map[rows] += attention_map(text_query, image_key, valid)

    def take(self) -> Tensor:
        """ACD float32 [B], the mean over blocks and forward passes since the last take; resets them (maps too).

        Raises:
            EditorError: when there was no forward.
        """
        acd = self._mean(self._sum)
        self._forget()
        return acd

    def take_blocks(self) -> Tensor:
        """ACD float32 [L, B] of each probed block, in execution order: the mean over the same forward passes; resets
        them.

        Raises:
            EditorError: when there was no forward.
        """
        total, forwards = self._by_block, self._forwards
        self.take()
        assert total is not None
        return total / forwards

    def take_map(self) -> Tensor:
        """Mean attention map float32 [B, N] of the same forward passes; resets them (ACD too).

        Raises:
            EditorError: when there was no forward, or the probe was opened without `capture_map`.
        """
        if not self._capture_map:
            raise EditorError("This probe keeps no maps; open it with capture_map=True.")
        heat = self._mean(self._map)
        self._forget()
        return heat

    def _mean(self, total: Tensor | None) -> Tensor:
        if total is None:
            raise EditorError("The probe: expected a forward pass since the last take, got none.")
        return total / (self._forwards * self._blocks)


class FluxProbeProcessor(FluxAttnProcessor):  # type: ignore[misc]
    """The stock FLUX attention that also passes queries and keys to a probe."""

    def __init__(self, probe: AttentionProbe, replaced: FluxAttnProcessor) -> None:
        super().__init__()
        self._attention_backend = replaced._attention_backend
        self._parallel_config = replaced._parallel_config
        self._probe = probe

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As the parent's, operation by operation: the velocity must not change by a bit (a test holds
        it)."""
        query, key, value, text_query, text_key, text_value = _get_qkv_projections(
            attn, hidden_states, encoder_hidden_states
        )
        query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in (query, key, value))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if attn.added_kv_proj_dim is not None:
            text_query, text_key, text_value = (
                part.unflatten(-1, (-1, attn.head_dim)) for part in (text_query, text_key, text_value)
            )
            query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
            key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        if image_rotary_emb is not None:
            query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
            key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)

        self._probe.observe(query, key)

        joint: Tensor = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        joint = joint.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return joint
        text = encoder_hidden_states.shape[1]
        image = attn.to_out[1](attn.to_out[0](joint[:, text:].contiguous()))
        return image, attn.to_add_out(joint[:, :text].contiguous())


@contextmanager
def probe_flux_attention(
    transformer: FluxTransformer2DModel, edit_mask: Tensor, last_blocks: int, capture_map: bool
) -> Iterator[AttentionProbe]:
    """A context in which the last blocks (double, then single: execution order) report to the yielded probe.

    Raises:
        EditorError: when there are fewer blocks, or a block has an attention processor other than the stock
            one.
    """
    attentions = [block.attn for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)]
    if not 1 <= last_blocks <= len(attentions):
        raise EditorError(
            f"The probe: expected 1 to {len(attentions)} blocks of this transformer, got last_blocks = "
            f"{last_blocks}. Change the number of ACD blocks in the config."
        )
    watched = attentions[-last_blocks:]
    replaced = [attn.processor for attn in watched]
    for processor in replaced:
        if type(processor) is not FluxAttnProcessor:
            raise EditorError(
                "The attention probe: expected stock FluxAttnProcessors (it does not nest), got "
                f"{type(processor).__name__}."
            )
    probe = AttentionProbe(edit_mask, last_blocks, capture_map)
    try:
        for attn, processor in zip(watched, replaced, strict=True):
            attn.set_processor(FluxProbeProcessor(probe, processor))
        yield probe
    finally:
        for attn, processor in zip(watched, replaced, strict=True):
            attn.set_processor(processor)
