"""A run folder belongs to one run and one driver."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.load import config_hash
from configs.schema import RunConfig
from learner.errors import RunFailed, RunInterrupted, RunRefused
from learner.state.run_dir import RunFolder
from learner.state.run_lock import RunLock


def config(tmp_path, **values) -> RunConfig:
    return RunConfig.model_validate({"name": "r", "folder": str(tmp_path), **values})


def test_the_resolved_configuration_is_kept(tmp_path):
    settings = config(tmp_path, seed=5)
    RunFolder(settings, resume=False).close()
    text = (tmp_path / "r" / "config.yaml").read_text()
    assert text.startswith(f"# sha256 {config_hash(settings)}\n")
    assert RunConfig.model_validate(yaml.safe_load(text)) == settings


def test_a_folder_with_a_run_is_refused_unless_it_is_continued(tmp_path):
    RunFolder(config(tmp_path), resume=False).close()
    with pytest.raises(RunFailed, match=r"holds a run already; .* --config .*/r/config.yaml --resume$"):
        RunFolder(config(tmp_path), resume=False)
    RunFolder(config(tmp_path), resume=True).close()


def test_a_run_that_began_and_ended_while_another_was_starting_is_not_overwritten(tmp_path, monkeypatch):
    class LateLock(RunLock):
        def __init__(self, folder: Path) -> None:
            with monkeypatch.context() as patch:
                patch.setattr("learner.state.run_dir.RunLock", RunLock)
                RunFolder(config(tmp_path), resume=False).close()
            super().__init__(folder)

    monkeypatch.setattr("learner.state.run_dir.RunLock", LateLock)
    with pytest.raises(RunFailed, match="holds a run already"):
        RunFolder(config(tmp_path, seed=5), resume=False)
    monkeypatch.undo()
    RunFolder(config(tmp_path), resume=True).close()


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(RunRefused, match=r"expected a folder for the run at .*/r that can be .*--folder$"):
        RunFolder(config(tmp_path / folder), resume=False)


def test_a_file_in_the_place_of_a_run_is_a_sentence(tmp_path):
    (tmp_path / "r").touch()
    with pytest.raises(RunRefused, match=r"at .*/r that can be read and written, got: Not a directory"):
        RunFolder(config(tmp_path), resume=False)


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "r").mkdir()
    RunFolder(config(tmp_path), resume=False).close()


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(RunFailed, match=r"expected the run to continue in .*/r, but there is no"):
        RunFolder(config(tmp_path), resume=True)
    assert not (tmp_path / "r").exists()


def test_a_resumed_run_may_go_on_longer_and_elsewhere(tmp_path):
    RunFolder(config(tmp_path), resume=False).close()
    changed = config(tmp_path, learner={"steps": 500}, cluster={"mode": "inline"}, report={"gallery_tasks": 0})
    RunFolder(changed, resume=True).close()


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (
            {"learner": {"optimizer": {"lr": 1e-5}}},
            f"learner.optimizer.lr was {RunConfig().learner.optimizer.lr} and is 1e-05 now",
        ),
        ({"data": {"type": "shapes", "seed": 3}}, "data.seed was 0 and is 3 now"),
        ({"rewards": {"weights": {"acd": 1.0}}}, "rewards.weights.acd was None and is 1.0 now"),
        (
            {"learner": {"groups_per_step": 3, "steps": 7}},
            f"learner.groups_per_step was {RunConfig().learner.groups_per_step} and is 3 now",
        ),
    ],
)
def test_another_run_is_not_continued(tmp_path, values, key):
    RunFolder(config(tmp_path), resume=False).close()
    before = (tmp_path / "r" / "config.yaml").read_bytes()
    with pytest.raises(RunFailed, match=key):
        RunFolder(config(tmp_path, **values), resume=True)
    assert (tmp_path / "r" / "config.yaml").read_bytes() == before


def test_two_drivers_cannot_share_a_run(tmp_path):
    folder = RunFolder(config(tmp_path), resume=False)
    held_by = f"is in use by another process \\(pid {os.getpid()} on {re.escape(socket.gethostname())}\\)"
    with pytest.raises(RunInterrupted, match=held_by):
        RunFolder(config(tmp_path), resume=True)
    folder.close()
    RunFolder(config(tmp_path), resume=True).close()


def test_a_driver_that_was_killed_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys; from configs.schema import RunConfig; from learner.state.run_dir import RunFolder; "
        "RunFolder(RunConfig(name='r', folder=sys.argv[1]), False); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    RunFolder(config(tmp_path), resume=True).close()
