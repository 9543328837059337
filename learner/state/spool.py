"""The spool: a group is on disk before the learner uses it, so that a run that was killed can take it again.

    spool/<group id>.safetensors      the arrays, and everything else as JSON in the header; never pickle

A file is written whole or not at all (fsync, then rename), and goes when a checkpoint holds its effect. After a crash
the files that are left are the groups that were used, or about to be, since the checkpoint, in a recorded order.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from editing.trajectory import Lease, MessageError, TrajectoryGroup
from rewards.result import GroupScores, Score

FOLDER = "spool"
FAULTY = "faulty"
"""Folder of a run with the groups that the learner could not use, for the operator to inspect."""
FORMAT = 3
_SUFFIX = ".safetensors"
_PARTIAL = ".partial"
_ARRAYS = ("sigmas", "anchors", "candidates", "predecessors", "images", "acd")
_DTYPES = {"float32": "F32", "int64": "I64", "uint8": "U8"}


class SpoolError(ValueError):
    """A file of the spool cannot be trusted or does not belong to this run; the sentence names it."""


@dataclass(frozen=True)
class Spooled:
    """A group in the spool: all of it but its arrays, which `load` reads.

    `place` is its number (from 0) among the groups of its step, in the order in which the learner took them.
    """

    path: Path
    place: int
    lease: Lease
    task_id: str
    policy_version: int
    config_hash: str
    seconds: float
    noise: str | None
    kept_steps: tuple[int, ...]
    scores: GroupScores

    def load(self) -> TrajectoryGroup:
        """The group as it was written."""
        arrays: dict[str, Any] = {"acd": None, **safetensors.numpy.load_file(self.path)}
        return TrajectoryGroup(
            lease=self.lease,
            task_id=self.task_id,
            policy_version=self.policy_version,
            config_hash=self.config_hash,
            noise=self.noise,
            kept_steps=self.kept_steps,
            seconds=self.seconds,
            **arrays,
        )


class Spool:
    """The learner's side: writes and drops."""

    def __init__(self, run_folder: str | Path) -> None:
        self.folder, self.faulty = Path(run_folder) / FOLDER, Path(run_folder) / FAULTY

    def write(self, group: TrajectoryGroup, scores: GroupScores, place: int) -> float | None:
        """Writes a group and returns the seconds that this took; None when it is there already, taken again.

        The arrays are written from where they are, without a copy.

        Raises:
            OSError: when the disk refuses; nothing is left behind then.
        """
        start, path = time.monotonic(), self._path(group.lease.group_id)
        if path.exists():  # a resume has verified it, or removed it
            return None
        self.folder.mkdir(exist_ok=True)
        arrays = {name: np.ascontiguousarray(value) for name in _ARRAYS if (value := getattr(group, name)) is not None}
        partial = path.with_suffix(_PARTIAL)
        try:
            with partial.open("wb") as file:
                file.write(_header(arrays, _description(group, scores, place)))
                for array in arrays.values():
                    file.write(_bytes(array))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        # The folder is not fsynced: a rename that a power cut undoes only costs this group's rollout.
        partial.rename(path)
        return time.monotonic() - start

    def drop(self, step: int) -> None:
        """Removes the groups of the steps before `step`: a checkpoint holds what they did."""
        for path in _files(self.folder):
            if _step_of(path) < step:
                path.unlink()

    def set_aside(self, group_id: str) -> None:
        """Moves a group that cannot be used to `faulty/`, so that a resumed run does not take it again."""
        if self._path(group_id).exists():
            self.faulty.mkdir(exist_ok=True)
            self._path(group_id).rename(self.faulty / f"{group_id}{_SUFFIX}")

    def keep(self, group_id: str) -> None:
        """Copies a group to `faulty/`, where it stays for the operator to inspect; nothing if it is not here."""
        # A disk that is full must not stop the run for this.
        with suppress(OSError):
            if self._path(group_id).exists():
                self.faulty.mkdir(exist_ok=True)
                shutil.copyfile(self._path(group_id), self.faulty / f"{group_id}{_SUFFIX}")

    def _path(self, group_id: str) -> Path:
        return self.folder / f"{group_id}{_SUFFIX}"


def recover(
    run_folder: Path, step: int, config_hash: str, groups_per_step: int
) -> tuple[tuple[Spooled, ...], tuple[str, ...]]:
    """The groups to take again after the checkpoint of `step`, in the recorded order, and why others are refused.

    What is refused or no longer needed is removed. A group that was made by a version after the checkpoint may be
    taken only if every step up to that version is whole in the spool: else that version does not come back as it was.

    Args:
        run_folder: of a run that no other process uses.
        step: optimizer steps done in the checkpoint, >= 0.
        config_hash: of the run's configuration.
        groups_per_step: of the run.
    """
    folder = run_folder / FOLDER
    for left in folder.glob(f"*{_PARTIAL}"):
        left.unlink()
    Spool(run_folder).drop(step)
    found, refused = [], []
    for path in _files(folder):
        try:
            found.append(read_spooled(path, config_hash))
        except SpoolError as error:
            refused.append(str(error))
            path.unlink()
    found.sort(key=lambda one: (one.lease.step, one.place))
    taken: dict[tuple[int, int], Spooled] = {}
    whole = step
    for one in found:
        while sum(s == whole for s, _ in taken) == groups_per_step:
            whole += 1
        slot = (one.lease.step, one.lease.slot)
        if one.policy_version > whole or slot in taken:
            why = (
                f"slot {slot[1]} of step {slot[0]} is there twice"
                if slot in taken
                else f"it was made by policy version {one.policy_version}, and step {whole} is not whole in the spool"
            )
            refused.append(f"spool file {one.path} is refused: {why}.")
            one.path.unlink()
            continue
        taken[slot] = one
    return tuple(taken.values()), tuple(refused)


def read_spooled(path: Path, config_hash: str) -> Spooled:
    """What is in a file, every byte verified.

    Raises:
        SpoolError: when it is not what was written, or was written under another configuration.
    """

    def refused(why: str) -> SpoolError:
        return SpoolError(f"spool file {path} is refused: {why}.")

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = metadata["group"]
        values = json.loads(text)
        if metadata["sha256"] != _digest(text, arrays):
            raise refused("it is not what was written (its hash differs)")
        if values["format"] != FORMAT:
            raise refused(f"expected format {FORMAT}, got {values['format']}")
        if values["config_hash"] != config_hash:
            raise refused(
                f"it was made under configuration {values['config_hash'][:12]}, this run is {config_hash[:12]}"
            )
        one = Spooled(
            path,
            values["place"],
            Lease(**values["lease"]),
            values["task_id"],
            values["policy_version"],
            values["config_hash"],
            values["seconds"],
            values["noise"],
            tuple(values["kept_steps"]),
            _scores(values["scores"]),
        )
    except OSError as error:
        raise refused(str(error.strerror)) from error
    except SpoolError:
        raise
    except (SafetensorError, MessageError, ValueError, KeyError, TypeError) as error:
        raise refused(f"it cannot be read: {error!r}") from error
    if one.lease.group_id != path.stem:
        raise refused(f"it holds group {one.lease.group_id}")
    return one


def _description(group: TrajectoryGroup, scores: GroupScores, place: int) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "place": place,
            "lease": asdict(group.lease),
            "task_id": group.task_id,
            "policy_version": group.policy_version,
            "config_hash": group.config_hash,
            "noise": group.noise,
            "kept_steps": group.kept_steps,
            "seconds": group.seconds,
            "scores": {
                "group_id": scores.group_id,
                "policy_version": scores.policy_version,
                "components": _rows(scores.components),
                "seconds": scores.seconds,
                "diagnostics": _rows(scores.diagnostics),
            },
        },
        allow_nan=False,
    )


def _scores(values: Mapping[str, Any]) -> GroupScores:
    return GroupScores(
        values["group_id"],
        values["policy_version"],
        _read_rows(values["components"]),
        values["seconds"],
        _read_rows(values["diagnostics"]),
    )


def _rows(scores: Mapping[str, Sequence[Score]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(score) for score in row] for name, row in scores.items()}


def _read_rows(values: Mapping[str, Any]) -> dict[str, tuple[Score, ...]]:
    return {
        name: tuple(Score(**{**score, "passes": tuple(score["passes"])}) for score in row)
        for name, row in values.items()
    }


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"/{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(_bytes(np.ascontiguousarray(arrays[name])))
    return digest.hexdigest()


def _header(arrays: Mapping[str, np.ndarray], text: str) -> bytes:
    """The first part of a safetensors file whose data are `arrays` one after the other.

    Written here because the library's writer copies everything first and reports a full disk as a format error.
    """
    entries: dict[str, Any] = {"__metadata__": {"group": text, "sha256": _digest(text, arrays)}}
    end = 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy; also of an empty one."""
    return array.reshape(-1).view(np.uint8).data


def _files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _step_of(path: Path) -> int:
    return int(path.name.partition(".")[0])
