"""The command of a job: --resume exactly when there is a checkpoint, and nothing of an earlier attempt is lost."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from cluster import heartbeat, resume_or_start
from configs import exits
from learner.state.event_log import EventLog

FLAGS = ["--config", "rdp", "--name", "r", "--learner.steps", "3"]


@pytest.fixture
def become(monkeypatch, tmp_path) -> list[list[str]]:
    """The commands that the process would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, command: commands.append(command[3:]))
    return commands


def test_a_run_that_is_new_starts(become, tmp_path: Path):
    resume_or_start.main(["--", *FLAGS, "--folder", str(tmp_path)])
    assert become == [[*FLAGS, "--folder", str(tmp_path), "--name", "r"]]


def test_help_is_answered_and_starts_nothing(become, capsys):
    assert resume_or_start.main(["--", "--help"]) == exits.DONE
    assert "python -m learner.main --help" in capsys.readouterr().out and become == []


def test_a_run_with_a_checkpoint_resumes(become, tmp_path: Path):
    (tmp_path / "r" / "checkpoints" / "step_000025").mkdir(parents=True)
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert become[0][-3:] == ["--name", "r", "--resume"]


def test_a_run_that_has_lost_its_checkpoints_is_not_started_over(become, tmp_path: Path):
    with EventLog(started(tmp_path / "r")) as events:
        events.write("checkpoint", step=25, path="step_000025")
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert become[0][-1] == "--resume" and (tmp_path / "r").exists()


def test_an_event_log_that_cannot_be_read_is_for_the_run_to_refuse(become, tmp_path: Path):
    started(tmp_path / "r").mkdir()
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert become[0][-1] == "--resume"


def started(folder: Path) -> Path:
    folder.mkdir()
    return folder / "events.jsonl"


def test_what_a_run_without_a_checkpoint_left_is_set_aside(become, tmp_path: Path, capsys):
    for attempt in ("first", "second"):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "events.jsonl").write_text(attempt)
        resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
        assert "--resume" not in become[-1] and not (tmp_path / "r").exists()
    assert [(tmp_path / f"r.aside-{n}" / "events.jsonl").read_text() for n in (1, 2)] == ["first", "second"]
    assert "has no checkpoint; its contents move to" in capsys.readouterr().out


def test_a_folder_that_another_process_holds_is_for_a_later_attempt(become, tmp_path: Path, capsys):
    (tmp_path / "r" / "checkpoints" / "step_000001").mkdir(parents=True)
    with (tmp_path / "r" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert resume_or_start.main([*FLAGS, "--folder", str(tmp_path)]) == exits.RESUMABLE
    assert become == [] and "is in use by another attempt" in capsys.readouterr().err
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert len(become) == 1


def test_a_folder_is_not_taken_from_a_driver_on_another_machine_that_has_no_checkpoint_yet(
    become, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 30.0)  # for as long as it takes to see one
    lock, gone = tmp_path / "r" / ".lock", threading.Event()
    lock.parent.mkdir()
    lock.write_text("pid 7 on elsewhere\n")

    def live() -> None:
        while not gone.wait(0.02):
            os.utime(lock)

    other = threading.Thread(target=live)
    other.start()
    assert resume_or_start.main([*FLAGS, "--folder", str(tmp_path)]) == exits.RESUMABLE and become == []
    gone.set()
    other.join()
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 0.5)
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert len(become) == 1 and (tmp_path / "r.aside-1" / ".lock").exists()


def test_where_there_are_no_locks_the_run_itself_says_so(become, tmp_path: Path, monkeypatch):
    (tmp_path / "r" / "checkpoints" / "step_000001").mkdir(parents=True)
    (tmp_path / "r" / ".lock").touch()

    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    resume_or_start.main([*FLAGS, "--folder", str(tmp_path)])
    assert len(become) == 1


def test_a_wrong_request_is_a_sentence_and_code_2(become, capsys):
    assert resume_or_start.main(["--learner.stepz", "3"]) == exits.WRONG_REQUEST
    assert become == [] and "did you mean learner.steps?" in capsys.readouterr().err


def test_the_process_becomes_the_training_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "cluster.resume_or_start", "--", *FLAGS, "--folder", str(tmp_path), "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    config = yaml.safe_load(done.stdout)
    assert (config["name"], config["learner"]["steps"], config["folder"]) == ("r", 3, str(tmp_path))
