"""What --dry-run says about places and memory."""

import json
import struct

import pytest
import yaml

from cluster.doctor.gpus import Gpu
from configs.load import load_config
from learner.main import main
from learner.planning import report as planning
from learner.planning.report import Machine, as_comments, judge_weights, kv_bytes, report, text, this_machine

SMALL, LARGE = Machine(10**6, []), Machine(10**12, [])
H200 = Gpu("NVIDIA H200", total=143771, used=500, driver="580")


def test_what_is_printed_is_a_configuration_file(capsys, tmp_path):
    assert main(["--dry-run", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    config = load_config(["--folder", str(tmp_path)])
    assert yaml.safe_load(printed) == config.model_dump(mode="json")
    assert "# placement on Ray" in printed and "AdamW moments" in printed
    (tmp_path / "again.yaml").write_text(printed)
    assert load_config(["--config", str(tmp_path / "again.yaml")]) == config


@pytest.mark.parametrize(
    ("machine", "verdict"),
    [(SMALL, "1 MB free: DOES NOT FIT"), (LARGE, "1 TB free: fits"), (Machine(None, []), "free memory unknown")],
)
def test_it_says_whether_this_machine_has_room(machine, verdict):
    assert verdict in "\n".join(report(load_config([]), machine))


def test_gpus_are_compared_where_the_editor_sits_on_them():
    config = load_config(["--cluster.gpus_for_learner", "0.5", "--cluster.gpus_per_rollout_worker", "0.25"])
    lines = report(config, Machine(10**12, [H200]))
    assert any(line.startswith("memory of all GPUs here") and line.endswith("150 GB free: fits") for line in lines)
    assert any("GPU context" in line for line in lines)
    missing = report(config, LARGE)  # asked for, but there is none
    assert any(line.startswith("largest process on one GPU") and "DOES NOT FIT" in line for line in missing)
    on_the_cpu = report(load_config(["--editor.device", "cpu"]), Machine(10**12, [H200]))
    assert not any("GPU context" in line or "GPUs here" in line for line in on_the_cpu)


def test_gpus_that_are_reserved_must_be_there_whatever_memory_they_have():
    config = load_config(["--learner.num_workers", "2", "--cluster.gpus_for_learner", "1"])
    lines = report(config, Machine(10**12, [H200]))
    assert "  2 x learner: 596 MB GPU, 424 MB host" in lines
    assert lines[-1] == "GPUs that are reserved: 2 of 1 here: DOES NOT FIT"
    assert report(config, Machine(10**12, [H200] * 2))[-1] == "GPUs that are reserved: 2 of 2 here: fits"
    assert not any("reserved" in line for line in report(load_config([]), LARGE) if line.startswith("GPUs"))


def test_of_a_cluster_nothing_is_claimed():
    lines = report(load_config(["--cluster.address", "10.0.0.1:6379"]), SMALL)
    assert "cluster.doctor" in lines[-1] and not any("FIT" in line for line in lines)


def test_an_editor_that_is_elsewhere_is_named_and_nothing_fails(capsys):
    assert main(["--dry-run", "--editor.path", "/nowhere/flux"]) == 0
    assert "# memory: not known, since /nowhere/flux/model_index.json cannot be read" in capsys.readouterr().out


def test_a_full_object_store_is_told():
    config = load_config(["--cluster.staleness", "4", "--learner.groups_per_step", "1000"])
    assert any("spills to disk" in line for line in report(config, LARGE))
    assert not any("spills to disk" in line for line in report(load_config([]), LARGE))


def test_judges_of_the_run_are_counted_guessed_or_unknown(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(30))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "text_config": {
                    "num_attention_heads": 28,
                    "num_key_value_heads": 4,
                    "hidden_size": 3584,
                    "num_hidden_layers": 28,
                }
            }
        )
    )
    assert judge_weights(str(tmp_path)) == (30, "counted from its files")
    assert judge_weights("Qwen/Qwen2.5-VL-7B-Instruct")[0] == 14 * 10**9
    assert judge_weights("EditScore/EditScore-Qwen3-VL-8B")[0] == 16 * 10**9
    assert judge_weights("somebody/judge") == (None, "")
    # Qwen2.5-VL-7B: 28 layers, 4 heads of 128, key and value, two bytes each.
    assert (
        kv_bytes({"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584, "num_hidden_layers": 28})
        == 28 * 4 * 128 * 2 * 2
    )
    assert kv_bytes({"hidden_size": 3584}) is None
    flags = ["--rewards.judge.editscore.serve.replicas", "2", "--rewards.judge.editscore.serve.path", str(tmp_path)]
    lines = "\n".join(report(load_config(flags), LARGE))
    assert "2 x judge editscore: weights 30 B (counted from its files); KV cache 57.3 MB per 1000 tokens" in lines
    assert "2 x judge editscore  1 GPU" in lines


def test_numbers_are_readable():
    assert [text(n) for n in (0, 999, 1500, 23.8e9, 2e12)] == ["0 B", "999 B", "1.5 kB", "23.8 GB", "2 TB"]
    assert as_comments(["a", "", "  b"]) == "# a\n#\n#   b\n"


def test_this_machine_is_looked_at(monkeypatch, tmp_path):
    assert planning.MEMINFO.exists() is (this_machine().memory is not None)
    monkeypatch.setattr(planning, "MEMINFO", tmp_path / "meminfo")
    assert this_machine().memory is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1234 kB\n")
    assert this_machine().memory == 1234 * 1024
