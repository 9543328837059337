"""Tests of editing.editors.flux_kontext: the editor is the stock pipeline, taken apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline

from editing.editors.adapter_file import export_adapter
from editing.editors.base import Condition, EditorError
from editing.editors.flux_kontext import FluxKontextEditor, condition_key
from editing.editors.load import load_editor
from editing.editors.lora import adapter_parameters, attach_lora
from editing.task import EditTask
from tests.editing.editors.stock import assert_same_as_stock, give_effect, make_noise, our_latents, stock_output
from tests.tiny_kontext import make_tiny_kontext

SHAPES = {
    "two blocks each": {},
    "guidance": {"guidance_embeds": True},
    "factor 8, three heads": {
        "double": 1,
        "single": 3,
        "heads": 3,
        "head_dim": 12,
        "axes": (4, 4, 4),
        "latent_channels": 6,
        "vae_factor": 8,
        "text_len": 7,
        "seed": 3,
    },
}


@pytest.fixture(scope="module", params=list(SHAPES))
def folder(request, tmp_path_factory) -> Path:
    return make_tiny_kontext(tmp_path_factory.mktemp("kontext"), **SHAPES[request.param])


@pytest.fixture(scope="module")
def editor(tiny_kontext) -> FluxKontextEditor:
    return FluxKontextEditor.from_pretrained(tiny_kontext)


def make_task(height=32, width=32, instruction="add a red circle", seed=0) -> EditTask:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 2] = True
    return EditTask("t", rng.integers(0, 256, (height, width, 3), np.uint8), mask, instruction)


@pytest.mark.parametrize("size", [(32, 32), (48, 16)])
def test_euler_over_velocity_is_the_stock_pipeline(folder, size):
    editor = FluxKontextEditor.from_pretrained(folder)
    assert_same_as_stock(editor, FluxKontextPipeline.from_pretrained(folder), make_task(*size))


def test_stock_pipeline_with_the_exported_adapter_is_our_adapted_editor(tiny_kontext, tmp_path):
    editor = FluxKontextEditor.from_pretrained(tiny_kontext)
    task = make_task(32, 48)
    before = our_latents(editor, editor.encode(task), make_noise(editor, editor.encode(task), 2), 2)
    attach_lora(editor.transformer, rank=3, alpha=12, seed=0)
    give_effect(editor.transformer, 0.2)
    after = our_latents(editor, editor.encode(task), make_noise(editor, editor.encode(task), 2), 2)
    assert (after - before).abs().max() > 0.05, "the adapter must matter, or the test proves nothing"
    export_adapter(editor.transformer, tmp_path, {})
    pipeline = FluxKontextPipeline.from_pretrained(tiny_kontext)
    pipeline.load_lora_weights(tmp_path)
    assert_same_as_stock(editor, pipeline, task)


def test_text_source_noise_and_sigma_all_move_the_velocity(editor):
    condition = editor.encode(make_task())
    noise, sigma = make_noise(editor, condition, 1), torch.tensor([0.7])
    with torch.no_grad():
        v = editor.velocity(noise, sigma, condition)
        others = [
            editor.velocity(noise, sigma, editor.encode(make_task(instruction="remove the blue square"))),
            editor.velocity(noise, sigma, editor.encode(make_task(seed=1))),
            editor.velocity(make_noise(editor, condition, 1, seed=2), sigma, condition),
            editor.velocity(noise, torch.tensor([0.2]), condition),
        ]
    assert v.dtype == torch.float32
    for other in others:
        assert (other - v).square().mean().sqrt() > 0.02 * v.square().mean().sqrt()


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shift", [{}, {"use_dynamic_shifting": False}, {"max_shift": 3.0}])
def test_sigma_grid_is_the_pipelines(editor, steps, shift):
    """Closed form in float64: linspace(1, 1/T, T), exponential shift by mu(N), then 0."""
    scheduler = editor.pipeline.scheduler
    editor.pipeline.scheduler = type(scheduler).from_config(scheduler.config, **shift)
    try:
        condition = editor.encode(make_task())
        seen = editor.sigmas(steps, condition)
    finally:
        editor.pipeline.scheduler = scheduler
    plain = np.linspace(1, 1 / steps, steps)
    if shift.get("use_dynamic_shifting", True):
        slope = (shift.get("max_shift", 1.15) - 0.5) / (4096 - 256)
        mu = 0.5 + slope * (condition.tokens - 256)
        expected = np.exp(mu) / (np.exp(mu) + (1 / plain - 1))
    else:
        expected = 3 * plain / (1 + 2 * plain)
    assert seen.dtype == torch.float32 and seen.shape == (steps + 1,)
    np.testing.assert_allclose(seen.numpy(), np.append(expected, 0), atol=1e-6)


def test_condition_holds_what_the_brief_says(editor):
    task = make_task(48, 16)
    condition = editor.encode(task)
    assert condition.grid == (6, 2) and condition.tokens == 12
    assert condition.source_latents.shape == (1, 12, 16)
    assert condition.prompt_embeds.shape[1] == editor.max_text_tokens == 10
    # "add a red circle" and the end token are five tokens, the rest is padding.
    assert condition.text_valid.tolist() == [True] * 5 + [False] * 5
    assert condition.key == condition_key(task.source, task.instruction)


def test_conditions_are_kept_by_image_and_instruction(editor):
    first = editor.encode(make_task())
    assert editor.encode(make_task()) is first
    assert editor.encode(make_task(seed=1)).key != first.key
    assert editor.encode(make_task(instruction="remove it")).key != first.key


def test_cache_drops_the_least_recently_used(tiny_kontext):
    editor = FluxKontextEditor.from_pretrained(tiny_kontext, cached_conditions=2)
    a, b = editor.encode(make_task(seed=0)), editor.encode(make_task(seed=1))
    assert editor.encode(make_task(seed=0)) is a
    editor.encode(make_task(seed=2))
    assert editor.encode(make_task(seed=0)) is a
    assert editor.encode(make_task(seed=1)) is not b


def test_released_encoders_leave_kept_conditions_and_refuse_new_ones(tiny_kontext):
    editor = FluxKontextEditor.from_pretrained(tiny_kontext)
    condition = editor.encode(make_task())
    editor.release_encoders()
    assert editor.encode(make_task()) is condition
    with torch.no_grad():
        editor.velocity(make_noise(editor, condition, 2), torch.ones(2), condition)
    with pytest.raises(EditorError, match="encode every task before release_encoders"):
        editor.encode(make_task(seed=5))


def test_sizes_off_the_grid_name_the_key_to_change(editor):
    with pytest.raises(EditorError, match=r"30x32.*multiples of 8.*data\.resolution"):
        editor.encode(make_task(30, 32))


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 8])
def test_micro_batches_give_the_same_velocity(tiny_kontext, editor, micro_batch):
    split = FluxKontextEditor.from_pretrained(tiny_kontext, micro_batch=micro_batch)
    condition = editor.encode(make_task())
    noise, sigma = make_noise(editor, condition, 5), torch.linspace(0.1, 1, 5)
    calls = []
    split.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["hidden_states"].shape[0]), with_kwargs=True
    )
    with torch.no_grad():
        torch.testing.assert_close(split.velocity(noise, sigma, condition), editor.velocity(noise, sigma, condition))
    assert max(calls) <= micro_batch and sum(calls) == 5
    np.testing.assert_allclose(
        split.decode(noise, condition).astype(int), editor.decode(noise, condition).astype(int), atol=1
    )


def test_gradients_reach_latents_and_adapter_equally_with_checkpointing(tiny_kontext):
    gradients = []
    for checkpointing in (False, True):
        editor = FluxKontextEditor.from_pretrained(tiny_kontext, gradient_checkpointing=checkpointing, micro_batch=1)
        attach_lora(editor.transformer, rank=2, alpha=4, seed=0)
        condition = editor.encode(make_task())
        noise = make_noise(editor, condition, 2).requires_grad_()
        editor.velocity(noise, torch.tensor([0.5, 0.9]), condition).square().mean().backward()
        grads = {n: p.grad for n, p in adapter_parameters(editor.transformer).items()}
        assert all(g is not None for g in grads.values())
        assert all(p.grad is None for p in editor.transformer.parameters() if not p.requires_grad)
        gradients.append({"latents": noise.grad, **grads})
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0]["latents"].abs().max() > 0


def test_half_precision_transformer_takes_and_gives_float32(tiny_kontext, editor):
    half = FluxKontextEditor.from_pretrained(tiny_kontext, dtype=torch.bfloat16)
    condition = half.encode(make_task())
    assert condition.source_latents.dtype == torch.float32
    noise, sigma = make_noise(editor, condition, 2), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        v = half.velocity(noise, sigma, condition)
        expected = editor.velocity(noise, sigma, editor.encode(make_task()))
    assert v.dtype == torch.float32
    assert (v - expected).square().mean().sqrt() < 0.1 * expected.square().mean().sqrt()
    images = half.decode(noise, condition).astype(int) - editor.decode(noise, condition).astype(int)
    assert np.abs(images).mean() < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_transformer_is_asked_at_the_timesteps_of_the_stock_pipeline(tiny_kontext, dtype):
    half = FluxKontextEditor.from_pretrained(tiny_kontext, dtype=dtype)
    stock = FluxKontextPipeline.from_pretrained(tiny_kontext, dtype=dtype)
    asked: list[list[float]] = [[], []]
    for transformer, seen in zip((half.transformer, stock.transformer), asked, strict=True):
        transformer.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(kwargs["timestep"][0].item()), with_kwargs=True
        )
    task = make_task()
    condition = half.encode(task)
    noise = make_noise(half, condition, 1)
    our_latents(half, condition, noise, 9)
    stock_output(stock, task, noise.to(dtype), 9, half.max_text_tokens, "latent")
    assert asked[0] == asked[1] and len(set(asked[0])) == 9


def test_token_mask_is_on_the_condition_grid(editor):
    task = make_task(48, 16)
    mask = editor.token_mask(task.edit_mask, editor.encode(task))
    assert mask.dtype == torch.float32
    assert mask.view(6, 2).tolist() == [[1, 0]] * 3 + [[0, 0]] * 3


def test_misfitting_latents_are_refused(editor):
    condition = editor.encode(make_task())
    with pytest.raises(EditorError, match="velocity: expected latents"):
        editor.velocity(torch.zeros(2, condition.tokens + 1, 16), torch.ones(2), condition)
    with pytest.raises(EditorError, match="velocity: expected latents"):
        editor.velocity(torch.zeros(2, condition.tokens, 16), torch.ones(1), condition)


def test_condition_checks_its_shapes(editor):
    good = editor.encode(make_task())
    fields = {name: getattr(good, name) for name in Condition.__dataclass_fields__}
    for bad in (
        {"text_valid": good.text_valid[:-1]},
        {"text_valid": good.text_valid.float()},
        {"source_latents": good.source_latents[:, 1:]},
        {"source_latents": good.source_latents.double()},
        {"prompt_embeds": good.prompt_embeds[0]},
        {"pooled": good.pooled[0]},
        {"grid": (3, 3)},
    ):
        with pytest.raises(EditorError):
            Condition(**{**fields, **bad})


def test_load_editor_dispatches_on_the_pipeline_class(tiny_kontext, tmp_path):
    assert isinstance(load_editor(tiny_kontext, micro_batch=2), FluxKontextEditor)
    with pytest.raises(EditorError, match=r"no .*model_index\.json"):
        load_editor(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(EditorError, match="'FluxPipeline'"):
        load_editor(tmp_path)


def test_pickled_weights_are_not_read(tiny_kontext, tmp_path):
    pipeline = FluxKontextPipeline.from_pretrained(tiny_kontext)
    pipeline.save_pretrained(tmp_path)
    weights = next((tmp_path / "transformer").glob("*.safetensors"))
    torch.save(pipeline.transformer.state_dict(), tmp_path / "transformer/diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError):
        FluxKontextEditor.from_pretrained(tmp_path)
