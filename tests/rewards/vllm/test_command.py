"""The command line and the environment of a judge server."""

import json
import re
import shlex

import pytest

from rewards.vllm.command import CPU, MODULE, ROOT, command, environment, interpreter
from rewards.vllm.context import UNKNOWN_CACHE, cache_gib, context_of


def test_the_users_arguments_come_last(stand_in):
    words = command(stand_in(arguments=("--max-model-len=4096",)), "/weights", "judge", "127.0.0.1", 8123)
    assert words[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/weights"]
    assert words[-1] == "--max-model-len=4096" and "--max-model-len" in words[:-1]
    at = words.index("--host")
    assert words[at : at + 4] == ["--host", "127.0.0.1", "--port", "8123"]


def test_only_a_cpu_server_computes_in_float32(stand_in):
    assert "float32" in command(stand_in(), "m", "n", "127.0.0.1", 1)
    assert "float32" not in command(stand_in(gpus=1), "m", "n", "127.0.0.1", 1)


@pytest.mark.parametrize(
    ("gpus", "arguments", "spread"),
    [
        (1, (), []),
        (0.5, (), []),
        (0, (), []),
        (4, (), ["--tensor-parallel-size", "4"]),
        (4, ("--quantization=fp8",), ["--tensor-parallel-size", "4"]),
        (4, ("--tensor-parallel-size=2",), ["--tensor-parallel-size=2"]),
        (4, ("-tp", "2"), ["-tp"]),
        (4, ("--pipeline_parallel_size", "4"), ["--pipeline_parallel_size"]),
    ],
)
def test_several_gpus_share_one_model_unless_told_otherwise(stand_in, gpus, arguments, spread):
    words = command(stand_in(gpus=gpus, arguments=arguments), "m", "n", "127.0.0.1", 1)
    at = next((i for i, word in enumerate(words) if "parallel" in word or word == "-tp"), len(words))
    assert words[at : at + len(spread)] == spread
    assert sum("parallel" in word or word == "-tp" for word in words) == bool(spread)


def test_a_relative_interpreter_is_one_of_the_checkout(tmp_path, monkeypatch, stand_in):
    monkeypatch.chdir(tmp_path)
    assert interpreter("README.md").endswith("README.md")  # stands for .venv-judge/bin/python
    assert interpreter(stand_in().python) == stand_in().python
    with pytest.raises(ValueError, match="make judge"):
        interpreter("no/such/python")


def test_secrets_stay_here_and_the_key_goes_by_the_environment(stand_in, tmp_path):
    inherited = {
        "PATH": "/bin",
        "LOCUS_REDIS_PASSWORD": "a",
        "LOCUS_JUDGE_API_KEY": "b",
        "VLLM_API_KEY": "c",
        "PYTHONPATH": "/elsewhere",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    values = environment(stand_in(), str(tmp_path), "key", inherited)
    assert values["VLLM_API_KEY"] == "key" and values["PATH"] == "/bin"
    assert not [name for name in values if name.startswith("LOCUS_")]
    assert values["PYTHONPATH"].endswith("rewards/vllm/inside")
    assert values["VLLM_CPU_KVCACHE_SPACE"] == "2"  # what the user set stays
    assert values["HF_HUB_OFFLINE"] == "1"  # a folder needs no hub
    assert "HF_HUB_OFFLINE" not in environment(stand_in(), "Qwen/Some-Model", "", {})
    assert "VLLM_API_KEY" not in environment(stand_in(), str(tmp_path), "", inherited)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(stand_in(gpus=1), "m", "", {})


def model_of(folder, context: int, nested: bool = True) -> str:
    """A folder with the configuration of Qwen3-VL-8B's language model, but for its context."""
    text = {
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 36,
        "head_dim": 128,
        "hidden_size": 4096,
        "max_position_embeddings": context,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": text} if nested else text))
    return str(folder)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("own", "expected"), [(262144, 8192), (8192, 8192), (4096, 4096)])
def test_the_context_is_the_models_own_where_that_is_shorter(stand_in, tmp_path, own, expected, nested):
    words = command(stand_in(), model_of(tmp_path / "m", own, nested), "judge", "127.0.0.1", 1)
    assert words[words.index("--max-model-len") + 1] == str(expected)


def test_a_name_on_the_hub_has_a_context_and_a_cache_that_need_no_look_at_it():
    assert context_of("Qwen/Some-Model") == 8192
    assert cache_gib("Qwen/Some-Model", 8192) == UNKNOWN_CACHE


def test_a_cpu_server_has_room_for_one_request_of_its_whole_context(stand_in, tmp_path):
    """36 layers of 8 heads of 128 numbers, key and value, 4 bytes each: 0.28 MiB a token."""
    model = model_of(tmp_path / "m", 262144)
    assert environment(stand_in(), model, "", {})["VLLM_CPU_KVCACHE_SPACE"] == "3"  # 2.25 GiB
    for longer in (["--max-model-len=32768"], ["--max-model-len", "32768"], ["--max_model_len=32768", "--seed=1"]):
        assert environment(stand_in(arguments=tuple(longer)), model, "", {})["VLLM_CPU_KVCACHE_SPACE"] == "9"
    assert environment(stand_in(), model_of(tmp_path / "n", 512), "", {})["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_the_readmes_line_for_a_cpu_sets_what_the_runs_own_servers_set(stand_in):
    readme = (ROOT / "docs/rewards.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in readme.splitlines() if MODULE in line]
    words = shlex.split(line)
    ours = environment(stand_in(), "Qwen/Qwen3-VL-2B-Instruct", "", {})
    for name in (name for name in ours if name.startswith("VLLM_CPU")):
        assert f"{name}={ours[name]}" in words
    assert all(flag in words for flag in CPU)
    assert words[words.index("--max-model-len") + 1] == str(context_of("Qwen/Qwen3-VL-2B-Instruct"))
    assert re.search(r"leave\s+`--max-model-len` out for a model whose own context is shorter", readme)
