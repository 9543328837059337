"""Checks of a run's storage: space, speed, whether all machines see the same folder, and Ray's object store."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.doctor.finding import Finding

GB = 2**30
NEEDED, COMFORTABLE = 1 * GB, 10 * GB
WRITTEN = 32 * 2**20  # bytes, for the speed
SLOW = 20e6  # bytes per second
STORE = 1 * GB


def folder_findings(folder: Path) -> list[Finding]:
    """Free space and write speed of a run folder, which need not exist yet; leaves no files behind."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    probe = there / f".locus-doctor-{uuid.uuid4().hex}"
    try:
        free = shutil.disk_usage(there).free
        seconds = _write(probe)
    except OSError as error:
        return [
            Finding(
                "disk",
                "fail",
                f"{there} is not writable: {error.strerror}",
                "set --folder to a folder that this machine can write to, or correct its permissions",
            )
        ]
    finally:
        probe.unlink(missing_ok=True)
    rate, seen = WRITTEN / seconds, f"{free / GB:.0f} GiB free in {there}"
    if free < NEEDED:
        space = Finding("disk", "fail", seen, "free some space, or set --folder to another disk")
    elif free < COMFORTABLE:
        space = Finding("disk", "warn", seen, "checkpoints and spooled groups of a full-size editor take gigabytes")
    else:
        space = Finding("disk", "ok", seen)
    slow = rate < SLOW
    return [
        space,
        Finding(
            "disk speed",
            "warn" if slow else "ok",
            f"{rate / 1e6:.0f} MB/s, flushed",
            "checkpoints and spooled groups will slow down the learner" if slow else "",
        ),
    ]


def _write(path: Path) -> float:
    block = os.urandom(2**20)
    start = time.monotonic()
    with path.open("xb") as file:
        for _ in range(WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return max(time.monotonic() - start, 1e-9)


@contextmanager
def marker(folder: Path) -> Iterator[Path | None]:
    """A file in the run folder by which other machines prove that they see the same one; None if it cannot be made."""
    path = folder / f".locus-doctor-{uuid.uuid4().hex}"
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError:
        yield None
        return
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        for parent in made:  # innermost first; one that was filled meanwhile stays
            if not any(parent.iterdir()):
                parent.rmdir()


def shared_finding(path: Path) -> Finding:
    """Whether this machine sees the marker that another one created in the run folder."""
    if path.exists():
        return Finding("run folder", "ok", f"the same {path.parent} as the driver's")
    return Finding(
        "run folder",
        "fail",
        f"{path.parent} is not the driver's folder: what is saved here would be missing there",
        "mount the same network folder on all nodes and pass it as --folder",
    )


def store_finding(capacity: float, memory: Path = Path("/dev/shm")) -> Finding:
    """Whether Ray's object store is large enough and in memory."""
    seen, there = f"{capacity / GB:.1f} GiB", shutil.disk_usage(memory).total
    if there < capacity:
        return Finding(
            "object store",
            "warn",
            f"{seen}, but {memory} has {there / GB:.1f} GiB: objects spill to disk",
            f"enlarge {memory} (containers: --shm-size, or an emptyDir of medium Memory)",
        )
    if capacity < STORE:
        return Finding(
            "object store",
            "warn",
            seen,
            "start Ray with --object-store-memory=2000000000 or more; the rest spills to disk",
        )
    return Finding("object store", "ok", seen)
