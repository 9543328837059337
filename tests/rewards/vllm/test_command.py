"""The command line and the environment of a judge server."""

import pytest

from rewards.vllm.command import command, environment, interpreter


def test_the_users_arguments_come_last(stand_in):
    words = command(stand_in(arguments=("--max-model-len=4096",)), "/weights", "judge", "127.0.0.1", 8123)
    assert words[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/weights"]
    assert words[-1] == "--max-model-len=4096" and "--max-model-len" in words[:-1]
    at = words.index("--host")
    assert words[at : at + 4] == ["--host", "127.0.0.1", "--port", "8123"]


def test_only_a_cpu_server_computes_in_float32(stand_in):
    assert "float32" in command(stand_in(), "m", "n", "127.0.0.1", 1)
    assert "float32" not in command(stand_in(gpus=1), "m", "n", "127.0.0.1", 1)


@pytest.mark.parametrize(("gpus", "arguments", "spread"), [
    (1, (), []), (0.5, (), []), (0, (), []), (4, (), ["--tensor-parallel-size", "4"]),
    (4, ("--quantization=fp8",), ["--tensor-parallel-size", "4"]),
    (4, ("--tensor-parallel-size=2",), ["--tensor-parallel-size=2"]), (4, ("-tp", "2"), ["-tp"]),
    (4, ("--pipeline_parallel_size", "4"), ["--pipeline_parallel_size"]),
])
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
    inherited = {"PATH": "/bin", "LOCUS_REDIS_PASSWORD": "a", "LOCUS_JUDGE_API_KEY": "b", "VLLM_API_KEY": "c",
                 "PYTHONPATH": "/elsewhere", "VLLM_CPU_KVCACHE_SPACE": "2"}
    values = environment(stand_in(), str(tmp_path), "key", inherited)
    assert values["VLLM_API_KEY"] == "key" and values["PATH"] == "/bin"
    assert not [name for name in values if name.startswith("LOCUS_")]
    assert values["PYTHONPATH"].endswith("rewards/vllm/inside")
    assert values["VLLM_CPU_KVCACHE_SPACE"] == "2"  # what the user set stays
    assert values["HF_HUB_OFFLINE"] == "1"  # a folder needs no hub
    assert "HF_HUB_OFFLINE" not in environment(stand_in(), "Qwen/Some-Model", "", {})
    assert "VLLM_API_KEY" not in environment(stand_in(), str(tmp_path), "", inherited)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(stand_in(gpus=1), "m", "", {})
