"""The run folder and Ray's store: what is measured, what is left behind, what fails."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.doctor import storage
from cluster.doctor.storage import GB, folder_findings, marker, shared_finding, store_finding


def test_space_and_speed_are_measured_and_nothing_is_left(tmp_path: Path):
    space, speed = folder_findings(tmp_path / "runs" / "r")
    assert "GiB free" in space.seen and "MB/s" in speed.seen and space.level in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "level"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_little_room_is_said(tmp_path: Path, monkeypatch, free, level):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free * GB, total=100 * GB))
    assert folder_findings(tmp_path)[0].level == level


@pytest.mark.parametrize(("seconds", "level"), [(10.0, "warn"), (0.1, "ok")])
def test_a_slow_folder_is_said(tmp_path: Path, monkeypatch, seconds, level):
    monkeypatch.setattr(storage, "_write", lambda path: seconds)
    assert folder_findings(tmp_path)[1].level == level


def test_a_folder_that_cannot_be_written_fails():
    (found,) = folder_findings(Path("/proc/locus/runs"))  # the kernel's: not even root may write there
    assert found.level == "fail" and "/proc is not writable" in found.seen


def test_a_full_disk_fails_and_the_probe_is_removed(tmp_path: Path, monkeypatch):
    def full(handle):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    (found,) = folder_findings(tmp_path)
    assert found.level == "fail" and "No space left" in found.seen and list(tmp_path.iterdir()) == []


def test_two_machines_know_a_shared_folder_by_the_marker(tmp_path: Path):
    with marker(tmp_path / "a" / "runs") as put:
        assert put is not None and shared_finding(put).level == "ok"
        elsewhere = shared_finding(tmp_path / "b" / put.name)
        assert elsewhere.level == "fail" and "is not the driver's folder" in elsewhere.seen
    assert list(tmp_path.iterdir()) == []
    with marker(Path("/proc/locus")) as put:
        assert put is None


def test_a_folder_that_somebody_fills_meanwhile_stays(tmp_path: Path):
    with marker(tmp_path / "runs"):
        (tmp_path / "runs" / "quickstart").mkdir()
    assert (tmp_path / "runs" / "quickstart").is_dir()


@pytest.mark.parametrize(
    ("capacity", "there", "level", "words"),
    [(4 * GB, 8 * GB, "ok", "4.0 GiB"), (0.5 * GB, 8 * GB, "warn", "0.5 GiB"), (4 * GB, GB // 16, "warn", "to disk")],
)
def test_the_store_of_objects(monkeypatch, capacity, there, level, words):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0, total=there))
    found = store_finding(capacity)
    assert found.level == level and words in found.seen
