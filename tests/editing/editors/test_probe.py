"""Tests of editing.editors.probe against explicit attention computed from the blocks' own inputs."""

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.embeddings import apply_rotary_emb

from editing.editors.base import EditorError
from editing.editors.flux_kontext import FluxKontextEditor
from editing.editors.lora import adapter_parameters, attach_lora
from editing.task import EditTask


@pytest.fixture(scope="module")
def editor(tiny_kontext) -> FluxKontextEditor:
    editor = FluxKontextEditor.from_pretrained(tiny_kontext)
    # Normalisation weights of one would hide a hook before the normalisation.
    for block in (*editor.transformer.transformer_blocks, *editor.transformer.single_transformer_blocks):
        for name, parameter in block.attn.named_parameters():
            if name.startswith("norm_"):
                torch.nn.init.uniform_(parameter, 0.5, 3.0, generator=torch.Generator().manual_seed(len(name)))
    return editor


@pytest.fixture(scope="module")
def setup(editor):
    """Condition (5 of 10 text tokens valid), latents [3, 24, 16], sigma [3], edit mask [24]."""
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 48), bool)
    mask[4:20, 10:30] = True
    task = EditTask("t", rng.integers(0, 256, (32, 48, 3), np.uint8), mask, "make the circle red")
    condition = editor.encode(task)
    latents = torch.randn(3, condition.tokens, 16, generator=torch.Generator().manual_seed(0))
    return condition, latents, torch.tensor([1.0, 0.6, 0.2]), editor.token_mask(mask, condition)


def explicit_attention(editor, condition, latents, sigma) -> list[torch.Tensor]:
    """Per block in execution order: float64 [B, V, N], softmax over the generated tokens, mean over heads.

    From the inputs of each block's attention module, through its own projections.
    """
    inputs: list[tuple] = []
    blocks = (*editor.transformer.transformer_blocks, *editor.transformer.single_transformer_blocks)
    handles = [
        block.attn.register_forward_pre_hook(lambda attn, args, kwargs: inputs.append((attn, kwargs)), with_kwargs=True)
        for block in blocks
    ]
    with torch.no_grad():
        editor.velocity(latents, sigma, condition)
    for handle in handles:
        handle.remove()
    text, tokens = condition.text_valid.shape[0], condition.tokens
    maps = []
    for attn, kwargs in inputs:
        x, context = kwargs["hidden_states"], kwargs.get("encoder_hidden_states")
        with torch.no_grad():
            query = attn.norm_q(attn.to_q(x).unflatten(-1, (attn.heads, -1)))
            key = attn.norm_k(attn.to_k(x).unflatten(-1, (attn.heads, -1)))
            if context is not None:
                added_q = attn.norm_added_q(attn.add_q_proj(context).unflatten(-1, (attn.heads, -1)))
                added_k = attn.norm_added_k(attn.add_k_proj(context).unflatten(-1, (attn.heads, -1)))
                query, key = torch.cat([added_q, query], 1), torch.cat([added_k, key], 1)
            query = apply_rotary_emb(query, kwargs["image_rotary_emb"], sequence_dim=1).double()
            key = apply_rotary_emb(key, kwargs["image_rotary_emb"], sequence_dim=1).double()
        scores = torch.einsum("bvhd,bnhd->bhvn", query[:, :text], key[:, text : text + tokens])
        maps.append(torch.softmax(scores / math.sqrt(attn.head_dim), dim=-1).mean(dim=1))
    return maps


def explicit_acd(attention, mask, valid) -> torch.Tensor:
    """Eq. 16-18 of arXiv 2604.09386 in float64 with loops over samples: a(u) summed over text, ratio of
    means."""
    values = []
    for sample, sample_mask in zip(attention, mask.expand(attention.shape[0], -1).double(), strict=True):
        a = sample[valid].sum(dim=0)
        values.append((a * sample_mask).sum() / sample_mask.sum() / (a.sum() / len(a)))
    return torch.stack(values)


@pytest.mark.parametrize("last_blocks", [1, 2, 3, 4])
def test_acd_equals_explicit_softmax_over_the_last_blocks_of_both_types(editor, setup, last_blocks):
    condition, latents, sigma, mask = setup
    maps = explicit_attention(editor, condition, latents, sigma)
    assert len(maps) == 4
    per_block = torch.stack([explicit_acd(a, mask, condition.text_valid) for a in maps])
    assert per_block.std(dim=0).min() > 1e-3, "blocks must differ, or their choice is not tested"
    with editor.attention_probe(mask, last_blocks) as probe, torch.no_grad():
        editor.velocity(latents, sigma, condition)
        acd = probe.take()
    assert acd.shape == (3,) and acd.dtype == torch.float32
    torch.testing.assert_close(acd.double(), per_block[-last_blocks:].mean(dim=0), atol=1e-5, rtol=0)


def test_every_block_has_its_own_acd(editor, setup, tiny_kontext):
    condition, latents, _, mask = setup
    split = FluxKontextEditor.from_pretrained(tiny_kontext, micro_batch=2)
    split.transformer.load_state_dict(editor.transformer.state_dict())
    levels = [torch.full((3,), level) for level in (0.9, 0.4)]
    per_forward = [
        torch.stack([explicit_acd(a, mask, condition.text_valid) for a in maps[-3:]])
        for maps in (explicit_attention(editor, condition, latents, sigma) for sigma in levels)
    ]
    assert editor.attention_blocks == 4
    for one in (editor, split):
        with one.attention_probe(mask, 3) as probe, torch.no_grad():
            for _ in range(2):  # taking them resets them
                for sigma in levels:
                    one.velocity(latents, sigma, condition)
                blocks = probe.take_blocks()
            with pytest.raises(EditorError, match="a forward pass since the last take"):
                probe.take_blocks()
        assert blocks.shape == (3, 3) and blocks.dtype == torch.float32
        torch.testing.assert_close(blocks.double(), torch.stack(per_forward).mean(dim=0), atol=1e-5, rtol=0)


def test_velocity_is_bit_equal_with_the_probe_on(editor, setup):
    condition, latents, sigma, mask = setup
    with torch.no_grad():
        plain = editor.velocity(latents, sigma, condition)
        with editor.attention_probe(mask, 4, capture_map=True) as probe:
            probed = editor.velocity(latents, sigma, condition)
            assert probe.take().isfinite().all()
        after = editor.velocity(latents, sigma, condition)
    assert torch.equal(plain, probed) and torch.equal(plain, after)


def test_padding_tokens_are_left_out(editor, setup):
    condition, latents, sigma, mask = setup
    attention = explicit_attention(editor, condition, latents, sigma)[-1]
    everything = torch.ones_like(condition.text_valid)
    assert (
        explicit_acd(attention, mask, everything) - explicit_acd(attention, mask, condition.text_valid)
    ).abs().min() > 1e-3, "padding must matter, or leaving it out is not tested"
    with editor.attention_probe(mask, 1) as probe, torch.no_grad():
        editor.velocity(latents, sigma, condition)
        acd = probe.take()
    expected = explicit_acd(attention, mask, condition.text_valid)
    torch.testing.assert_close(acd.double(), expected, atol=1e-5, rtol=0)


def test_full_mask_gives_one(editor, setup):
    condition, latents, sigma, mask = setup
    with editor.attention_probe(torch.ones_like(mask), 4) as probe, torch.no_grad():
        editor.velocity(latents, sigma, condition)
        torch.testing.assert_close(probe.take(), torch.ones(3))


def test_masks_per_sample_and_micro_batches(editor, setup, tiny_kontext):
    condition, latents, sigma, mask = setup
    masks = torch.stack([mask, 1 - mask, mask.roll(5)])
    split = FluxKontextEditor.from_pretrained(tiny_kontext, micro_batch=2)
    split.transformer.load_state_dict(editor.transformer.state_dict())
    maps = explicit_attention(editor, condition, latents, sigma)[-2:]
    expected = torch.stack([explicit_acd(a, masks, condition.text_valid) for a in maps]).mean(dim=0)
    with split.attention_probe(masks, 2) as probe, torch.no_grad():
        split.velocity(latents, sigma, condition)
        torch.testing.assert_close(probe.take().double(), expected, atol=1e-5, rtol=0)


def test_take_averages_the_forwards_since_the_last_take(editor, setup):
    condition, latents, _, mask = setup
    with editor.attention_probe(mask, 3) as probe, torch.no_grad():
        single = []
        for level in (0.9, 0.4):
            editor.velocity(latents, torch.full((3,), level), condition)
            single.append(probe.take())
        for level in (0.9, 0.4):
            editor.velocity(latents, torch.full((3,), level), condition)
        both = probe.take()
        with pytest.raises(EditorError, match="a forward pass since the last take, got none"):
            probe.take()
    assert not torch.allclose(single[0], single[1])
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_map_is_the_mean_attention_of_valid_text(editor, setup):
    condition, latents, sigma, mask = setup
    maps = explicit_attention(editor, condition, latents, sigma)[-2:]
    expected = torch.stack(maps).mean(dim=0)[:, condition.text_valid].mean(dim=1)
    with editor.attention_probe(mask, 2, capture_map=True) as probe, torch.no_grad():
        editor.velocity(latents, sigma, condition)
        heat = probe.take_map()
    torch.testing.assert_close(heat.double(), expected, atol=1e-6, rtol=1e-5)
    with editor.attention_probe(mask, 2) as probe, pytest.raises(EditorError, match="capture_map=True"):
        probe.take_map()


def test_probe_sees_the_adapter(tiny_kontext, setup):
    condition, latents, sigma, mask = setup
    editor = FluxKontextEditor.from_pretrained(tiny_kontext)
    attach_lora(editor.transformer, rank=2, alpha=4, seed=0)
    values = []
    for scale in (0.0, 0.3):
        for name, parameter in adapter_parameters(editor.transformer).items():
            if "lora_B" in name:
                parameter.data.fill_(scale)
        maps = explicit_attention(editor, condition, latents, sigma)
        expected = torch.stack([explicit_acd(a, mask, condition.text_valid) for a in maps]).mean(dim=0)
        with torch.no_grad():
            plain = editor.velocity(latents, sigma, condition)
            with editor.attention_probe(mask, 4) as probe:
                assert torch.equal(editor.velocity(latents, sigma, condition), plain)
                values.append(probe.take())
        torch.testing.assert_close(values[-1].double(), expected, atol=1e-5, rtol=0)
    assert (values[1] - values[0]).abs().max() > 1e-3


def test_attention_backend_of_the_replaced_processor_is_kept(editor, setup, monkeypatch):
    mask = setup[-1]
    # diffusers makes the backend that of the whole process, and `reset_attention_backend` leaves it so: other bits for
    # every test after this one.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    editor.transformer.set_attention_backend("_native_math")
    try:
        replaced = editor.transformer.single_transformer_blocks[-1].attn.processor
        with editor.attention_probe(mask, 1):
            watching = editor.transformer.single_transformer_blocks[-1].attn.processor
            assert watching is not replaced
            assert watching._attention_backend == replaced._attention_backend is not None
        assert editor.transformer.single_transformer_blocks[-1].attn.processor is replaced
    finally:
        editor.transformer.reset_attention_backend()


def test_misuse_is_refused(editor, setup):
    condition, latents, sigma, mask = setup
    for last_blocks in (0, 5):
        with pytest.raises(EditorError, match="1 to 4 blocks"), editor.attention_probe(mask, last_blocks):
            pass
    with editor.attention_probe(mask, 1) as probe:
        with pytest.raises(EditorError, match="no_grad"):
            editor.velocity(latents, sigma, condition)
        with torch.no_grad():
            editor.velocity(latents, sigma, condition)
            with pytest.raises(EditorError, match="take"):
                editor.velocity(latents[:2], sigma[:2], condition)
        assert probe.take().shape == (3,)
        with pytest.raises(EditorError, match="does not nest"), editor.attention_probe(mask, 1):
            pass
    with (
        editor.attention_probe(mask[1:], 1),
        pytest.raises(EditorError, match="edit_mask"),
        torch.no_grad(),
    ):
        editor.velocity(latents, sigma, condition)
