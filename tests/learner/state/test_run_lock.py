"""One driver per run folder, also where the disk is shared and its locks are not."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from cluster import heartbeat
from configs.run_files import LOCK
from learner.errors import RunFailed, RunInterrupted
from learner.state import run_lock
from learner.state.run_lock import RunLock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "TOUCH_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 0.5)


def left_behind(folder: Path, holder: str) -> Path:
    """The lock of a process that was killed: the kernel has let go of it."""
    (folder / LOCK).write_text(f"{holder}\n")
    return folder / LOCK


def test_the_holder_is_named_and_gives_signs_of_life(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(RunInterrupted, match=rf"in use by another process \(pid {os.getpid()} on "):
        RunLock(tmp_path)
    before, touched = heartbeat.touched_at(tmp_path / LOCK), threading.Event()
    while heartbeat.touched_at(tmp_path / LOCK) == before:
        assert not touched.wait(0.01)
    lock.close()
    RunLock(tmp_path).close()


def test_a_machine_that_the_lock_does_not_reach_is_seen_by_its_signs_of_life(tmp_path, monkeypatch):
    path, gone = left_behind(tmp_path, "pid 7 on elsewhere"), threading.Event()

    def live() -> None:
        while not gone.wait(0.02):
            os.utime(path)

    other = threading.Thread(target=live)
    other.start()
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 30.0)  # for as long as it takes to see one
    with pytest.raises(RunInterrupted, match=r"in use by another process \(pid 7 on elsewhere\)"):
        RunLock(tmp_path)
    gone.set()
    other.join()
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 0.5)
    RunLock(tmp_path).close()  # it has died: nothing is touched any more


@pytest.mark.parametrize("holder", ["", f"pid 7 on {run_lock.socket.gethostname()}"])
def test_nobody_is_waited_for_who_ended_well_or_was_on_this_machine(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(heartbeat, "WAIT_SECONDS", 1e6)
    left_behind(tmp_path, holder)
    lock = RunLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"pid {os.getpid()} on {run_lock.socket.gethostname()}\n"
    lock.close()
    assert (tmp_path / LOCK).read_text() == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_sentence(tmp_path, number, monkeypatch):
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunFailed, match=r"without locks .*mount it with locks"):
        RunLock(tmp_path)
