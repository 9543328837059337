"""The command on one machine: exit codes, and a table without secrets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.doctor.__main__ import examine_all, main
from configs import exits
from configs.load import load_config
from editing.first_task import main as first_task_main


def test_a_machine_that_can_run_the_quickstart(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("HF_TOKEN", "LOCUS_JUDGE_API_KEY", "LOCUS_REDIS_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "canary-secret")
    assert main(["--folder", str(tmp_path / "runs")]) == exits.DONE
    printed = capsys.readouterr().out
    assert "0 failures" in printed and "4096 tasks, 256 held out; read" in printed and "canary" not in printed
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_a_failure_with_what_to_type(tmp_path: Path, capsys, monkeypatch):
    flags = ["--config", "kontext_1gpu", "--folder", str(tmp_path), "--editor.path", str(tmp_path / "none")]
    (report,) = examine_all(load_config(flags))
    failed = {one.check: one for one in report.findings if one.level == "fail"}
    assert set(failed) == {"data", "gpus requested"}
    assert f"there is no {tmp_path}/none/model_index.json" in failed["data"].seen
    assert "--editor.device cpu" in failed["gpus requested"].fix
    monkeypatch.setattr("cluster.doctor.__main__.examine_all", lambda config: [report])
    assert main(flags) == exits.FAILED and "2 failures" in capsys.readouterr().out


def test_a_wrong_request_is_a_sentence_and_code_2(capsys):
    assert main(["--learner.stepz", "3"]) == exits.WRONG_REQUEST
    assert "did you mean learner.steps?" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_a_failure(tmp_path: Path):
    """In a process of its own: this one may be connected to a Ray already."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.doctor", "--cluster.address", "127.0.0.1:9", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == exits.FAILED and "expected a running Ray cluster at '127.0.0.1:9'" in " ".join(
        done.stdout.replace("│", " ").split()
    ), done.stdout + done.stderr


@pytest.mark.parametrize("split", [True, False])
def test_a_sample_of_the_data(tmp_path: Path, capsys, split):
    flags = ["--data.train_tasks", "7"] if split else ["--data.photo_folder", str(tmp_path / "none")]
    assert first_task_main(flags) == (exits.DONE if split else exits.FAILED)
    printed = capsys.readouterr()
    if split:
        seen = json.loads(printed.out)
        assert (seen["train"], seen["height"], seen["width"]) == (7, 64, 64)
    else:
        assert "data.photo_folder" in printed.err
    assert first_task_main(["--nope"]) == exits.WRONG_REQUEST


def test_help_explains_and_examines_nothing(capsys):
    assert main(["--help"]) == exits.DONE
    said = capsys.readouterr().out
    assert "python -m cluster.doctor --config my_images" in said and "python -m learner.main --help" in said
