"""Tests of editing.editors.adapter_file; that stock diffusers samples the same images is in test_flux_kontext."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.numpy import save_file

from editing.editors.adapter_file import canonical, export_adapter, load_adapter
from editing.editors.lora import (
    AdapterError,
    adapter_arrays,
    adapter_parameters,
    attach_lora,
    bound_modules,
    copy_arrays,
)

FILE = "pytorch_lora_weights.safetensors"


def load(folder) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()


def with_adapter(folder, rank: int, alpha: float) -> FluxTransformer2DModel:
    """A transformer with an adapter of random weights."""
    transformer = load(folder)
    attach_lora(transformer, rank=rank, alpha=alpha, seed=0)
    rng = np.random.default_rng(0)
    copy_arrays(
        transformer,
        {n: rng.normal(size=a.shape).astype("f4") for n, a in adapter_arrays(transformer).items()},
    )
    return transformer


@pytest.fixture
def trained(tiny_kontext) -> FluxTransformer2DModel:
    return with_adapter(tiny_kontext, rank=3, alpha=7.5)


def deltas(transformer, adapter: str = "default") -> dict[str, np.ndarray]:
    """What the adapter adds to each layer's weight, B A alpha / rank, by peft's own arithmetic."""
    found = {
        name: module.get_delta_weight(adapter).detach().numpy()
        for name, module in transformer.named_modules()
        if hasattr(module, "lora_A")
    }
    assert len(found) == 22 and all(np.abs(delta).max() > 0.1 for delta in found.values())
    return found


def assert_same_strength(one: dict[str, np.ndarray], other: dict[str, np.ndarray], exact: bool = False) -> None:
    assert one.keys() == other.keys()
    for name in one:
        scale = np.abs(one[name]).max()
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=0 if exact else 1e-6 * scale, err_msg=name)


def tensors(path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def by_diffusers(editor, folder) -> dict[str, np.ndarray]:
    pipeline = FluxKontextPipeline.from_pretrained(editor)
    pipeline.load_lora_weights(folder, adapter_name="default")
    return deltas(pipeline.transformer)


def by_no_header(editor, folder) -> dict[str, np.ndarray]:
    """The rule of loaders that do not read the header: a scale of 1."""
    found = tensors(folder / FILE)
    names = sorted(name.removesuffix(".lora_A.weight") for name in found if ".lora_A." in name)
    return {
        name.removeprefix("transformer."): (found[f"{name}.lora_B.weight"] @ found[f"{name}.lora_A.weight"]).numpy()
        for name in names
    }


def by_diffusers_without_header(editor, folder) -> dict[str, np.ndarray]:
    (folder / "plain").mkdir()
    safetensors.torch.save_file(tensors(folder / FILE), folder / "plain" / FILE)
    return by_diffusers(editor, folder / "plain")


def by_peft(editor, folder) -> dict[str, np.ndarray]:
    with safe_open(folder / FILE, framework="np") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    transformer = load(editor)
    settings = LoraConfig(**{name.removeprefix("transformer."): value for name, value in header.items()})
    inject_adapter_in_model(settings, transformer, "peft")
    weights = {name.removeprefix("transformer."): value for name, value in tensors(folder / FILE).items()}
    assert not set_peft_model_state_dict(transformer, weights, "peft").unexpected_keys
    return deltas(transformer, "peft")


def by_us(editor, folder) -> dict[str, np.ndarray]:
    transformer = load(editor)
    load_adapter(transformer, folder)
    return deltas(transformer)


@pytest.mark.parametrize("rule", [by_diffusers, by_no_header, by_diffusers_without_header, by_peft, by_us])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8.0), (3, 7.5)])
def test_an_adapter_has_the_trained_strength_under_every_rule(tiny_kontext, tmp_path, rule, rank, alpha):
    transformer = with_adapter(tiny_kontext, rank, alpha)
    export_adapter(transformer, tmp_path, {})
    # Where alpha / rank is a power of two, every product is the same number.
    assert_same_strength(deltas(transformer), rule(tiny_kontext, tmp_path), exact=rank != 3)


def test_round_trip_into_a_fresh_transformer(trained, tiny_kontext, tmp_path):
    path = export_adapter(trained, tmp_path / "adapter", {"step": 4, "run": "x"})
    assert [p.name for p in path.parent.iterdir()] == [FILE]
    fresh = load(tiny_kontext)
    assert load_adapter(fresh, path.parent) == {"step": 4, "run": "x"}
    assert_same_strength(deltas(trained), deltas(fresh))
    assert bound_modules(fresh) == 22
    assert all(p.requires_grad for p in adapter_parameters(fresh).values())


@pytest.mark.parametrize("alpha", [7.5, 3.0, 6.0])
def test_round_trip_into_an_attached_transformer_whatever_its_alpha(trained, tiny_kontext, tmp_path, alpha):
    export_adapter(trained, tmp_path, {})
    attached = load(tiny_kontext)
    attach_lora(attached, rank=3, alpha=alpha, seed=9)
    load_adapter(attached, tmp_path)
    assert_same_strength(deltas(trained), deltas(attached))


def test_the_weights_of_the_run_come_back_bit_for_bit_where_alpha_over_rank_is_a_power_of_two(tiny_kontext, tmp_path):
    trained, attached = with_adapter(tiny_kontext, 4, 16.0), load(tiny_kontext)
    export_adapter(trained, tmp_path, {})
    attach_lora(attached, rank=4, alpha=16.0, seed=9)
    load_adapter(attached, tmp_path)
    one, other = adapter_arrays(trained), adapter_arrays(attached)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_header_with_another_alpha_is_obeyed(trained, tiny_kontext, tmp_path):
    path = export_adapter(trained, tmp_path, {})
    with safe_open(path, framework="np") as file:
        header = file.metadata()
    settings = {**json.loads(header["lora_adapter_metadata"]), "transformer.lora_alpha": 6}
    safetensors.torch.save_file(tensors(path), path, {**header, "lora_adapter_metadata": json.dumps(settings)})
    attached = load(tiny_kontext)
    attach_lora(attached, rank=3, alpha=7.5, seed=9)
    load_adapter(attached, tmp_path)
    twice = {name: 2 * delta for name, delta in deltas(trained).items()}
    assert_same_strength(twice, by_us(tiny_kontext, tmp_path))
    assert_same_strength(twice, deltas(attached))


def test_an_adapter_too_strong_for_float32_is_not_exported(tiny_kontext, tmp_path):
    with pytest.raises(AdapterError, match="holds values that are not finite"):
        export_adapter(with_adapter(tiny_kontext, 3, 1e39), tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_header_holds_the_metadata(trained, tmp_path):
    path = export_adapter(trained, tmp_path, {"step": 4, "config": {"a": [1, 2]}})
    with safe_open(path, framework="np") as file:
        header = file.metadata()
        assert all(name.startswith("transformer.") for name in file.keys())  # noqa: SIM118 (not a dict)
    assert json.loads(header["locus"]) == {"step": 4, "config": {"a": [1, 2]}}
    settings = json.loads(header["lora_adapter_metadata"])
    assert settings["transformer.lora_alpha"] == settings["transformer.r"] == 3


def test_export_replaces_the_old_file(trained, tiny_kontext, tmp_path):
    export_adapter(trained, tmp_path, {"step": 1})
    copy_arrays(trained, {name: 2 * array for name, array in adapter_arrays(trained).items()})
    export_adapter(trained, tmp_path, {"step": 2})
    fresh = load(tiny_kontext)
    assert load_adapter(fresh, tmp_path) == {"step": 2}
    assert_same_strength(deltas(trained), deltas(fresh))


def test_nothing_to_export(tiny_kontext, tmp_path):
    with pytest.raises(AdapterError, match="nothing to export"):
        export_adapter(load(tiny_kontext), tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_only_whole_safetensors_files_of_ours_are_read(trained, tiny_kontext, tmp_path):
    path = export_adapter(trained, tmp_path, {})
    transformer = load(tiny_kontext)
    whole = path.read_bytes()

    path.unlink()
    torch.save({}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(AdapterError, match="no other format is read"):
        load_adapter(transformer, tmp_path)

    for broken in (whole[:-100], b"", b"\x80\x04pickle"):
        path.write_bytes(broken)
        with pytest.raises(AdapterError, match="not a whole safetensors file"):
            load_adapter(transformer, tmp_path)

    save_file({"unet.lora_A.weight": np.zeros((1, 1), np.float32)}, path)
    with pytest.raises(AdapterError, match="not written by export_adapter"):
        load_adapter(transformer, tmp_path)
    assert not adapter_parameters(transformer)


def rewritten(path, change) -> None:
    """The file at `path` with its arrays changed by `change`, header kept."""
    with safe_open(path, framework="np") as file:
        header, arrays = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    change(arrays, sorted(arrays)[0])
    save_file(arrays, path, metadata=header)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, name: arrays.pop(name),
        lambda arrays, name: arrays.update({name: arrays[name][:, :-1].copy()}),
        lambda arrays, name: arrays[name].fill(np.nan),
        lambda arrays, name: arrays.update({name: arrays[name].astype(np.float16)}),
    ],
)
def test_unfit_weights_leave_the_transformer_as_it_was(trained, tiny_kontext, tmp_path, change):
    path = export_adapter(trained, tmp_path, {})
    rewritten(path, change)
    plain, attached = load(tiny_kontext), load(tiny_kontext)
    attach_lora(attached, rank=3, alpha=7.5, seed=9)
    before = adapter_arrays(attached)
    for transformer in (plain, attached):
        with pytest.raises(AdapterError):
            load_adapter(transformer, tmp_path)
    assert not adapter_parameters(plain)
    after = adapter_arrays(attached)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_adapter_of_other_rank_is_refused(trained, tiny_kontext, tmp_path):
    export_adapter(trained, tmp_path, {})
    other = load(tiny_kontext)
    attach_lora(other, rank=2, alpha=7.5, seed=0)
    with pytest.raises(AdapterError, match="was exported with"):
        load_adapter(other, tmp_path)


def test_equal_adapters_are_equal_files():
    weights = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.bfloat16)}
    metadata = {str(i): "ü" for i in range(20)}
    one, two = (
        canonical(safetensors.torch.save(weights, dict(order)))
        for order in (metadata.items(), reversed(metadata.items()))
    )
    assert one == two and int.from_bytes(one[:8], "little") % 8 == 0
    loaded = safetensors.torch.load(one)
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
