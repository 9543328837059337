"""Tests of learner.export; that stock diffusers samples the same pictures is in test_flux_kontext."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.numpy import save_file

from editing.editors.lora import (
    AdapterError,
    adapter_arrays,
    adapter_parameters,
    attach_lora,
    bound_modules,
    copy_arrays,
)
from learner.export import canonical, export_adapter, load_adapter


def load(folder) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()


@pytest.fixture
def trained(tiny_kontext) -> FluxTransformer2DModel:
    transformer = load(tiny_kontext)
    attach_lora(transformer, rank=3, alpha=7.5, seed=0)
    rng = np.random.default_rng(0)
    copy_arrays(
        transformer,
        {n: rng.normal(size=a.shape).astype("f4") for n, a in adapter_arrays(transformer).items()},
    )
    return transformer


def assert_same_adapter(one, two) -> None:
    a, b = adapter_arrays(one), adapter_arrays(two)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    scaling = [
        {n: m.scaling["default"] for n, m in x.named_modules() if hasattr(m, "lora_A")} for x in (one, two)
    ]
    assert scaling[0] == scaling[1] and set(scaling[0].values()) == {2.5}


def test_round_trip_into_a_fresh_transformer(trained, tiny_kontext, tmp_path):
    path = export_adapter(trained, tmp_path / "adapter", {"step": 4, "run": "x"})
    assert [p.name for p in path.parent.iterdir()] == ["pytorch_lora_weights.safetensors"]
    fresh = load(tiny_kontext)
    assert load_adapter(fresh, path.parent) == {"step": 4, "run": "x"}
    assert_same_adapter(trained, fresh)
    assert bound_modules(fresh) == 22
    assert all(p.requires_grad for p in adapter_parameters(fresh).values())


def test_round_trip_into_an_attached_transformer(trained, tiny_kontext, tmp_path):
    export_adapter(trained, tmp_path, {})
    attached = load(tiny_kontext)
    attach_lora(attached, rank=3, alpha=7.5, seed=9)
    load_adapter(attached, tmp_path)
    assert_same_adapter(trained, attached)


def test_stock_pipeline_loads_weights_and_alpha(trained, tiny_kontext, tmp_path):
    export_adapter(trained, tmp_path, {"step": 4})
    pipeline = FluxKontextPipeline.from_pretrained(tiny_kontext)
    pipeline.load_lora_weights(tmp_path, adapter_name="default")
    assert_same_adapter(trained, pipeline.transformer)
    pipeline.fuse_lora()
    module = "transformer_blocks.1.attn.to_out.0"
    fused = pipeline.transformer.get_submodule(module).get_base_layer().weight
    arrays = adapter_arrays(trained)
    delta = 2.5 * arrays[f"{module}.lora_B.weight"] @ arrays[f"{module}.lora_A.weight"]
    expected = trained.get_submodule(module).get_base_layer().weight + torch.from_numpy(delta)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)


def test_header_holds_the_metadata(trained, tmp_path):
    path = export_adapter(trained, tmp_path, {"step": 4, "config": {"a": [1, 2]}})
    with safe_open(path, framework="np") as file:
        header = file.metadata()
        assert all(name.startswith("transformer.") for name in file.keys())  # noqa: SIM118 (not a dict)
    assert json.loads(header["locus"]) == {"step": 4, "config": {"a": [1, 2]}}
    assert json.loads(header["lora_adapter_metadata"])["transformer.lora_alpha"] == 7.5


def test_export_replaces_the_old_file(trained, tiny_kontext, tmp_path):
    export_adapter(trained, tmp_path, {"step": 1})
    copy_arrays(trained, {name: -array for name, array in adapter_arrays(trained).items()})
    export_adapter(trained, tmp_path, {"step": 2})
    fresh = load(tiny_kontext)
    assert load_adapter(fresh, tmp_path) == {"step": 2}
    assert_same_adapter(trained, fresh)


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


@pytest.mark.parametrize("settings", [{"rank": 2, "alpha": 7.5}, {"rank": 3, "alpha": 3}])
def test_an_adapter_of_other_rank_or_alpha_is_refused(trained, tiny_kontext, tmp_path, settings):
    export_adapter(trained, tmp_path, {})
    other = load(tiny_kontext)
    attach_lora(other, seed=0, **settings)
    with pytest.raises(AdapterError, match="was exported with"):
        load_adapter(other, tmp_path)


def test_equal_adapters_are_equal_files():
    weights = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.bfloat16)}
    metadata = {str(i): "ü" for i in range(20)}
    one, two = (canonical(safetensors.torch.save(weights, dict(order)))
                for order in (metadata.items(), reversed(metadata.items())))
    assert one == two and int.from_bytes(one[:8], "little") % 8 == 0
    loaded = safetensors.torch.load(one)
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
