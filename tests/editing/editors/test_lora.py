"""Tests of editing.editors.lora."""

import re

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

from editing.editors.folder import TARGETS
from editing.editors.lora import (
    AdapterError,
    adapter_arrays,
    adapter_parameters,
    attach_lora,
    bound_modules,
    copy_arrays,
    largest_change,
    swapped_weights,
    without_adapter,
)


@pytest.fixture
def transformer(tiny_kontext) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(tiny_kontext, subfolder="transformer").eval()


def forward(transformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return transformer(
        hidden_states=draw(2, 8, 16),
        encoder_hidden_states=draw(2, 5, 24),
        pooled_projections=draw(2, 16),
        timestep=torch.tensor([0.3, 0.9]),
        img_ids=torch.arange(24.0).view(8, 3),
        txt_ids=torch.zeros(5, 3),
        return_dict=False,
    )[0]


def randomised(transformer, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=array.shape).astype(np.float32) for name, array in adapter_arrays(transformer).items()
    }


def test_exactly_the_attention_projections_are_bound(transformer):
    assert attach_lora(transformer, rank=2, alpha=4, seed=0) == bound_modules(transformer) == 2 * 8 + 2 * 3
    double = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    expected = {f"transformer_blocks.{i}.attn.{part}" for i in range(2) for part in double}
    expected |= {f"single_transformer_blocks.{i}.attn.to_{part}" for i in range(2) for part in "qkv"}
    parameters = adapter_parameters(transformer)
    assert list(parameters) == sorted(parameters)
    assert set(parameters) == {f"{name}.lora_{side}.weight" for name in expected for side in "AB"}


def test_with_the_mlps_those_of_image_tokens_are_bound_too(transformer):
    attention = attach_lora(transformer, rank=2, alpha=4, seed=0)
    both = FluxTransformer2DModel.from_config(transformer.config)
    assert attach_lora(both, rank=2, alpha=4, seed=0, targets=TARGETS["attention_mlp"]) == attention + 2 * 2 + 2 * 2
    more = {name.rpartition(".lora_")[0] for name in adapter_parameters(both).keys() - adapter_parameters(transformer)}
    expected = {f"transformer_blocks.{i}.ff.net.{part}" for i in range(2) for part in ("0.proj", "2")}
    assert more == expected | {
        f"single_transformer_blocks.{i}.proj_{part}" for i in range(2) for part in ("mlp", "out")
    }


@pytest.mark.parametrize("name", ["proj_out", "x_embedder", "transformer_blocks.0.ff_context.net.2", "norm_out.linear"])
@pytest.mark.parametrize("targets", TARGETS.values())
def test_output_layers_never_match(name, targets):
    assert re.fullmatch(targets, name) is None


def test_base_is_frozen_and_adapter_trains(transformer):
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    adapter = {id(p) for p in adapter_parameters(transformer).values()}
    assert all(p.requires_grad == (id(p) in adapter) for p in transformer.parameters())
    forward(transformer).square().mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for name, p in adapter_parameters(transformer).items()
        if "lora_B" in name
    )


def test_new_adapter_changes_nothing(transformer):
    with torch.no_grad():
        before = forward(transformer)
        attach_lora(transformer, rank=2, alpha=4, seed=0)
        assert torch.equal(forward(transformer), before)


def test_adapter_is_w_plus_alpha_over_r_b_a(transformer):
    """Against a transformer whose weights got (alpha / r) B A added in float64."""
    merged = FluxTransformer2DModel.from_config(transformer.config).eval()
    merged.load_state_dict(transformer.state_dict())
    attach_lora(transformer, rank=2, alpha=6, seed=0)
    arrays = {name: 0.1 * array for name, array in randomised(transformer).items()}
    copy_arrays(transformer, arrays)
    for name in arrays:
        if name.endswith("lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            a, b = arrays[name].astype(np.float64), arrays[f"{module}.lora_B.weight"].astype(np.float64)
            merged.get_submodule(module).weight.data += torch.from_numpy(6 / 2 * b @ a).float()
    with torch.no_grad():
        torch.testing.assert_close(forward(transformer), forward(merged), atol=1e-4, rtol=1e-4)


def test_the_largest_change_is_that_of_the_matrix_that_changed_most(transformer):
    attach_lora(transformer, 4, 8.0, seed=0)
    assert largest_change(transformer) == 0
    (first, b), (_, other) = list((n, p) for n, p in adapter_parameters(transformer).items() if "lora_B" in n)[:2]
    with torch.no_grad():
        b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(1)))
        other.fill_(1e-6)
        weight = transformer.get_submodule(first.removesuffix(".lora_B.weight")).base_layer.weight
        a = adapter_parameters(transformer)[first.replace("lora_B", "lora_A")]
        expected = (2.0 * b @ a).norm() / weight.norm()
        assert largest_change(transformer) == pytest.approx(expected.item(), rel=1e-5)
        other.fill_(float("nan"))
    assert np.isnan(largest_change(transformer))


def test_initial_weights_come_from_the_seed_alone(tiny_kontext):
    def attached(seed: int, global_seed: int) -> dict[str, np.ndarray]:
        transformer = FluxTransformer2DModel.from_pretrained(tiny_kontext, subfolder="transformer")
        torch.manual_seed(global_seed)
        expected_next = torch.Generator().manual_seed(global_seed)
        attach_lora(transformer, rank=8, alpha=4, seed=seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected_next)), "global generator was moved"
        return adapter_arrays(transformer)

    first, same, other = attached(5, 0), attached(5, 1), attached(6, 0)
    for name in first:
        assert np.array_equal(first[name], same[name])
        assert np.array_equal(first[name], other[name]) == ("lora_B" in name)
    a = np.concatenate([v.ravel() for n, v in first.items() if "lora_A" in n])
    assert abs(a.std() * 8 - 1) < 0.05 and abs(a.mean()) < 0.01
    assert not any(v.any() for n, v in first.items() if "lora_B" in n)
    shapes = [v.tobytes() for n, v in first.items() if "lora_A" in n]
    assert len(set(shapes)) == len(shapes), "modules must not share their draw"


def test_adapter_is_float32_over_a_half_precision_base(tiny_kontext):
    transformer = FluxTransformer2DModel.from_pretrained(tiny_kontext, subfolder="transformer", dtype=torch.bfloat16)
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    assert {p.dtype for p in adapter_parameters(transformer).values()} == {torch.float32}
    assert transformer.x_embedder.weight.dtype == torch.bfloat16


def test_without_adapter_is_the_base_and_restores(transformer):
    with torch.no_grad():
        base = forward(transformer)
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    copy_arrays(transformer, randomised(transformer))
    frozen = next(iter(adapter_parameters(transformer).values())).requires_grad_(False)
    with torch.no_grad():
        adapted = forward(transformer)
        assert not torch.allclose(adapted, base, atol=1e-2)
        with without_adapter(transformer):
            assert torch.equal(forward(transformer), base)
            assert bound_modules(transformer) == 0
            with without_adapter(transformer):
                pass
            assert torch.equal(forward(transformer), base), "the inner exit must not switch the adapter on"
        assert torch.equal(forward(transformer), adapted)
    assert bound_modules(transformer) == 22
    assert not frozen.requires_grad and sum(p.requires_grad for p in transformer.parameters()) == 43


def test_adapter_weights_swap_in_place_and_come_back(transformer):
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    old, new = randomised(transformer, 1), randomised(transformer, 2)
    copy_arrays(transformer, new)
    pointers = [p.data_ptr() for p in adapter_parameters(transformer).values()]
    with torch.no_grad():
        with_new = forward(transformer)
        with pytest.raises(RuntimeError, match="out"), swapped_weights(transformer, old):
            with_old = forward(transformer)
            raise RuntimeError("out")
        assert torch.equal(forward(transformer), with_new)
        copy_arrays(transformer, old)
        assert torch.equal(forward(transformer), with_old) and not torch.equal(with_old, with_new)
    assert pointers == [p.data_ptr() for p in adapter_parameters(transformer).values()]


def test_swapping_between_forward_and_backward_is_an_error_not_a_wrong_gradient(transformer):
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    loss = forward(transformer).square().mean()
    with swapped_weights(transformer, randomised(transformer)):
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_arrays_are_copies_and_may_be_read_only(transformer):
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    arrays = randomised(transformer)
    for array in arrays.values():
        array.flags.writeable = False
    copy_arrays(transformer, arrays)
    held = adapter_arrays(transformer)
    assert all(np.array_equal(held[name], arrays[name]) for name in arrays)
    for parameter in adapter_parameters(transformer).values():
        parameter.data.zero_()
    assert all(np.array_equal(held[name], arrays[name]) for name in arrays)


def test_wrong_attachments_are_refused(transformer):
    with pytest.raises(AdapterError, match="nothing_like_this"):
        attach_lora(transformer, rank=2, alpha=4, seed=0, targets="nothing_like_this")
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    with pytest.raises(AdapterError, match="already has an adapter"):
        attach_lora(transformer, rank=2, alpha=4, seed=0)
