"""Every process that opens a run's policy holds the same version 0."""

import numpy as np
import pytest
import torch

from configs.schema import EditorConfig
from editing.editors.adapter_file import export_adapter
from editing.editors.base import EditorError
from editing.editors.lora import adapter_arrays, adapter_config, bound_modules, copy_arrays
from editing.editors.policy import open_policy, pick_device


def config(folder, **editor) -> EditorConfig:
    return EditorConfig.model_validate(
        {"path": str(folder), "device": "cpu", "lora": {"rank": 3, "alpha": 6.0}, **editor}
    )


def test_the_adapter_depends_on_the_seed_alone(tiny_kontext):
    torch.manual_seed(1)
    one = open_policy(config(tiny_kontext), 0)
    torch.manual_seed(2)
    two, other = open_policy(config(tiny_kontext), 0), open_policy(config(tiny_kontext), 1)
    a, b, c = (adapter_arrays(editor.transformer) for editor in (one, two, other))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(not np.array_equal(a[name], c[name]) for name in a)
    assert (adapter_config(one.transformer).r, adapter_config(one.transformer).lora_alpha) == (3, 6.0)
    assert bound_modules(one.transformer) > 0


def test_the_settings_reach_the_editor(tiny_kontext):
    editor = open_policy(
        config(tiny_kontext, micro_batch=3, max_text_tokens=7, dtype="bfloat16", gradient_checkpointing=True), 0
    )
    assert (editor.micro_batch, editor.max_text_tokens) == (3, 7)
    assert editor.transformer.x_embedder.weight.dtype == torch.bfloat16
    assert editor.transformer.is_gradient_checkpointing
    assert {array.dtype for array in adapter_arrays(editor.transformer).values()} == {np.dtype("float32")}


def test_version_0_is_the_adapter_to_start_from(tiny_kontext, tmp_path):
    trained = open_policy(config(tiny_kontext), 0)
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(size=a.shape).astype("f4") for n, a in adapter_arrays(trained.transformer).items()}
    copy_arrays(trained.transformer, drawn)
    export_adapter(trained.transformer, tmp_path, {})
    started = open_policy(config(tiny_kontext, lora={"rank": 3, "alpha": 6.0, "start": str(tmp_path)}), 1)
    held = adapter_arrays(started.transformer)
    assert held.keys() == drawn.keys() and all(np.array_equal(held[name], drawn[name]) for name in drawn)


def test_an_adapter_that_is_not_there_or_of_another_rank_is_refused_by_its_key(tiny_kontext, tmp_path):
    with pytest.raises(EditorError, match=r"editor\.lora\.start: .* there is no .*pytorch_lora_weights\.safetensors"):
        open_policy(config(tiny_kontext, lora={"rank": 3, "start": str(tmp_path / "none")}), 0)
    export_adapter(open_policy(config(tiny_kontext), 0).transformer, tmp_path, {})
    with pytest.raises(EditorError, match=r"exported with editor\.lora\.rank 4 .*'r': 3"):
        open_policy(config(tiny_kontext, lora={"rank": 4, "start": str(tmp_path)}), 0)


@pytest.mark.parametrize("available", [True, False])
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert pick_device("auto") == torch.device("cuda" if available else "cpu")
    assert pick_device("cpu") == torch.device("cpu")
