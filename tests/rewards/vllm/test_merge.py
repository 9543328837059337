"""A LoRA merged on disk: the right numbers, every tensor, once."""

import json
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from rewards.vllm import merge
from rewards.vllm.merge import MergeError, merged, renamed
from tests.vllm.tiny_qwen_vl import make_tiny_qwen_vl

RANK, ALPHA = 3, 12.0
ADAPTED = r".*(q_proj|v_proj|down_proj|qkv)"


@pytest.fixture(scope="module", params=["qwen2.5", "qwen3"])
def pair(request, tmp_path_factory):
    """Folders of a tiny base and of a LoRA on it, with numbers in both of its halves."""
    folder = tmp_path_factory.mktemp("pair")
    base = make_tiny_qwen_vl(folder / "base", request.param)
    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(base),
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ADAPTED, init_lora_weights=False),
    )
    model.save_pretrained(folder / "lora")
    return base, folder / "lora"


def module_of(key):
    return key.removeprefix("base_model.model.").rpartition(".lora_")[0]


def test_merged_weights_are_base_plus_scaled_product(pair, tmp_path):
    base_folder, lora_folder = pair
    target = merged(str(base_folder), str(lora_folder), tmp_path)
    base, adapter, result = (
        load_file(f)
        for f in (
            base_folder / "model.safetensors",
            lora_folder / "adapter_model.safetensors",
            target / "model.safetensors",
        )
    )
    deltas = {}
    for key, half in adapter.items():
        if ".lora_A." in key:
            other = adapter[key.replace(".lora_A.", ".lora_B.")]
            deltas[module_of(key)] = other.double() @ half.double() * (ALPHA / RANK)
    # Of each of two text layers q, v and down; of each vision block qkv, and Qwen2.5's have a down as well.
    assert len(deltas) == (10 if "qwen2.5" in (base_folder / "config.json").read_text().replace("_", ".") else 8)
    assert base.keys() == result.keys()
    changed = 0
    for name, weight in base.items():
        end = name.removeprefix("model.")
        delta = next((delta for module, delta in deltas.items() if f"{module}.weight".endswith(end)), None)
        want = weight.double() if delta is None else weight.double() + delta
        assert torch.allclose(result[name].double(), want, rtol=0, atol=1e-6), name
        changed += delta is not None
        assert delta is None or delta.abs().max() > 1e-3
    assert changed == len(deltas)
    model = AutoModelForImageTextToText.from_pretrained(target)
    assert not any("lora" in name for name, _ in model.named_parameters())
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "config.json"):
        assert (target / name).read_bytes() == (base_folder / name).read_bytes()
    assert oct(target.stat().st_mode)[-3:] == "755"


@pytest.fixture
def counted(monkeypatch):
    """How often something was really merged."""
    calls, real = [], merge._merge
    monkeypatch.setattr(merge, "_merge", lambda *a: (calls.append(a), real(*a)))
    return calls


def test_the_same_pair_is_merged_once_and_a_changed_one_again(pair, tmp_path, counted):
    base, lora = pair
    first = merged(str(base), str(lora), tmp_path / "merged")
    assert merged(str(base), str(lora), tmp_path / "merged") == first and len(counted) == 1
    other = tmp_path / "lora"
    other.mkdir()
    (other / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    save_file(
        {k: 2 * v for k, v in load_file(lora / "adapter_model.safetensors").items()},
        other / "adapter_model.safetensors",
    )
    second = merged(str(base), str(other), tmp_path / "merged")
    assert second != first and len(counted) == 2
    assert sorted(p.name for p in (tmp_path / "merged").iterdir() if p.is_dir()) == sorted([first.name, second.name])


def test_two_that_want_the_same_merge_it_once(pair, tmp_path, counted):
    found = []
    threads = [threading.Thread(target=lambda: found.append(merged(*map(str, pair), tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(counted) == 1


def test_a_merge_that_fails_leaves_no_half_checkpoint(pair, tmp_path, monkeypatch):
    def fails(base, adapter, target):
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(merge, "_merge", fails)
    with pytest.raises(OSError, match="no space left"):
        merged(*map(str, pair), tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def changed_lora(lora, folder, change):
    folder.mkdir()
    (folder / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    save_file(change(load_file(lora / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {k: v for k, v in t.items() if "layers.0.mlp" not in k}, "no tensors for"),
        (lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()}, "fit nothing in the base"),
        (lambda t: {k: v[:, :-1].contiguous() if ".lora_A." in k else v for k, v in t.items()}, "size mismatch"),
    ],
)
def test_a_lora_of_another_model_is_refused(pair, tmp_path, change, sentence):
    lora = changed_lora(pair[1], tmp_path / "lora", change)
    with pytest.raises(MergeError, match=sentence):
        merged(str(pair[0]), str(lora), tmp_path / "merged")


def test_a_lora_with_the_old_names_of_modules_gives_the_same(pair, tmp_path):
    def older(tensors):
        return {
            k.replace(".model.language_model.", ".model.").replace(".model.model.visual.", ".model.visual."): v
            for k, v in tensors.items()
        }

    lora = changed_lora(pair[1], tmp_path / "lora", older)
    old = load_file(merged(str(pair[0]), str(lora), tmp_path / "merged") / "model.safetensors")
    new = load_file(merged(str(pair[0]), str(pair[1]), tmp_path / "merged") / "model.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in new)
    names = load_file(pair[1] / "adapter_model.safetensors")
    assert renamed(names).keys() == names.keys() != load_file(lora / "adapter_model.safetensors").keys()


def test_only_safetensors_are_loaded(pair, tmp_path):
    base, lora = pair
    (tmp_path / "bin").mkdir()
    torch.save({}, tmp_path / "bin" / "adapter_model.bin")
    with pytest.raises(MergeError, match=r"expected adapter_model\.safetensors"):
        merged(str(base), str(tmp_path / "bin"), tmp_path / "merged")
    (tmp_path / "weights").mkdir()
    torch.save({}, tmp_path / "weights" / "pytorch_model.bin")
    with pytest.raises(MergeError, match=r"expected weights as \*\.safetensors"):
        merged(str(tmp_path / "weights"), str(lora), tmp_path / "merged")


def test_another_kind_of_adapter_is_refused(pair, tmp_path):
    lora = changed_lora(pair[1], tmp_path / "lora", lambda tensors: tensors)
    settings = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "task_type": settings["task_type"]}))
    with pytest.raises(MergeError, match="expected a LoRA"):
        merged(str(pair[0]), str(lora), tmp_path / "merged")


def test_a_name_that_is_nothing_is_a_sentence(pair, tmp_path):
    with pytest.raises(MergeError, match="neither"):
        merged("/no/such/folder", str(pair[1]), tmp_path)
