"""Checkpoints: safetensors and JSON behind a hash manifest, written whole or not at all. Never pickle.

    checkpoints/step_000025/  <name>.safetensors ...  state.json  MANIFEST.json

A checkpoint exists only if its manifest and every file that it lists verify. The newest is found by scanning,
never by a pointer file. Order of a save: files, each fsynced; the manifest last; rename of the folder; fsync
of its parent. A crash anywhere leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from learner.state.provenance import library_version
from locus.version import __version__

FORMAT = 2
MANIFEST = "MANIFEST.json"
STATE = "state.json"
_LIBRARIES = ("torch", "diffusers", "peft", "safetensors", "numpy")
_STEP = re.compile(r"step_(\d{6,})")
_TEMPORARY = "tmp."


class CheckpointError(ValueError):
    """A checkpoint cannot be saved, trusted, or continued from; the message names the file or key."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        config_hash: of the configuration that it was saved under.
        libraries: versions at the time of saving, of Locus and Python too.
        code: see `learner.state.provenance.code_fingerprint`.
        data: fingerprint of the tasks by name.
        tensors: tensors by file name (without suffix) and tensor name, on the CPU.
        state: JSON values.
    """

    path: Path
    step: int
    config_hash: str
    libraries: Mapping[str, str]
    code: Mapping[str, str]
    data: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save_checkpoint(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    config_hash: str,
    data: Mapping[str, str],
    code: Mapping[str, str],
) -> Path:
    """Writes `folder/step_NNNNNN` atomically, keeps the newest `keep`, and returns its path.

    A checkpoint of the same step is replaced, and later ones are removed: they belong to a continuation that
    was abandoned, and a resume would otherwise take them for this run's newest.

    Args:
        folder: the run's `checkpoints` folder; made if needed.
        step: optimizer steps done, >= 0.
        tensors: by file name (letters, digits, `_`, `-`, `.`) and tensor name; moved to the CPU.
        state: JSON values; NaN and infinity are refused.
        keep: how many checkpoints remain, >= 1.
        config_hash: of the run's configuration.
        data: fingerprint of the tasks by name.
        code: see `learner.state.provenance.code_fingerprint`.

    Raises:
        CheckpointError: for a bad argument. OSError when the disk refuses; earlier checkpoints are intact.
    """
    if step < 0 or keep < 1:
        raise CheckpointError(f"a checkpoint needs step >= 0 and keep >= 1, got {step} and {keep}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_unfinished(folder)
    partial = folder / f"{_TEMPORARY}step_{step}.{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        written = {}
        for name, group in sorted(tensors.items()):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise CheckpointError(f"a file name of letters, digits, '_', '-' and '.' is needed, got {name!r}.")
            on_cpu = {key: value.detach().cpu().contiguous() for key, value in sorted(group.items())}
            written[f"{name}.safetensors"] = safetensors.torch.save(on_cpu)
        try:
            written[STATE] = _canonical(state)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the state must consist of finite JSON values: {error}") from error
        for file, content in written.items():
            _write(partial / file, content)
        manifest = {
            "format": FORMAT,
            "step": step,
            "config_hash": config_hash,
            "libraries": {
                "locus": __version__,
                "python": platform.python_version(),
                **{name: library_version(name) for name in _LIBRARIES},
            },
            "code": dict(code),
            "data": dict(data),
            "files": {file: _entry(content) for file, content in written.items()},
        }
        _write(partial / MANIFEST, _sealed(manifest))
        _sync_folder(partial)
        final = folder / f"step_{step:06d}"
        if final.exists():
            final.rename(folder / f"{_TEMPORARY}replaced.{uuid.uuid4().hex}")
        partial.rename(final)
        _sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already unless something failed
    _prune(folder, step, keep)
    return final


def load_latest(folder: str | Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that verifies, and a sentence for every newer one that was refused.

    (None, ()) means that there is none; (None, sentences) that there are some but none can be trusted, which
    must not be taken for a fresh start.
    """
    refused: list[str] = []
    for _, path in reversed(_steps(Path(folder))):
        try:
            return read_checkpoint(path), tuple(refused)
        except CheckpointError as error:
            refused.append(str(error))
    return None, tuple(refused)


def load_step(folder: str | Path, step: int) -> Checkpoint:
    """The checkpoint of that step.

    Raises:
        CheckpointError: when there is none, or it does not verify.
    """
    known = dict(_steps(Path(folder)))
    if step not in known:
        raise CheckpointError(f"there is no checkpoint of step {step} in {folder}; found steps {sorted(known)}.")
    return read_checkpoint(known[step])


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, every byte verified before anything is parsed but the manifest.

    Raises:
        CheckpointError: naming the file that is missing or is not what was saved.
    """
    manifest = _read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    state: Any = None
    for file, entry in manifest["files"].items():
        content = _read(path / file)
        if _entry(content) != entry:
            raise CheckpointError(
                f"checkpoint {path} is refused: {file} is not what was saved (expected {entry['bytes']} bytes "
                f"with sha256 {entry['sha256'][:12]}, got {len(content)} with "
                f"{_entry(content)['sha256'][:12]})."
            )
        try:
            if file == STATE:
                state = json.loads(content)
            else:
                tensors[file.removesuffix(".safetensors")] = safetensors.torch.load(content)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path} is refused: {file} cannot be read: {error}") from error
    return Checkpoint(
        path,
        manifest["step"],
        manifest["config_hash"],
        manifest["libraries"],
        manifest["code"],
        manifest["data"],
        tensors,
        state,
    )


def newest_step(folder: Path) -> int | None:
    """The step of the newest folder that is named like a checkpoint, whether it can be trusted or not."""
    return max((step for step, _ in _steps(folder)), default=None)


def clear_unfinished(folder: Path) -> None:
    """Removes what is not a checkpoint any more, or never became one because of a crash."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left)


def _prune(folder: Path, step: int, keep: int) -> None:
    steps = _steps(folder)
    earlier = [path for number, path in steps if number < step]
    abandoned = [path for number, path in steps if number > step]
    _remove(folder, [*abandoned, *earlier[: max(0, len(earlier) - (keep - 1))]])


def discard_after(folder: Path, step: int) -> None:
    """Removes the checkpoints of more than `step` optimizer steps."""
    _remove(folder, [path for number, path in _steps(folder) if number > step])


def _remove(folder: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        # Renamed first: a half-removed folder must not look like a checkpoint.
        path.rename(folder / f"{_TEMPORARY}removed.{uuid.uuid4().hex}")
    clear_unfinished(folder)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that is named like a checkpoint, rising."""
    if not folder.is_dir():
        return []
    return sorted((int(m[1]), p) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name)) and p.is_dir())


def _read_manifest(path: Path) -> dict[str, Any]:
    content = _read(path / MANIFEST)
    try:
        sealed = json.loads(content)
        manifest = sealed["manifest"]
        # The seal covers the manifest itself, so that no byte of a checkpoint is without a hash.
        intact = content == _sealed(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is refused: {MANIFEST} is not a whole manifest: {error!r}."
        ) from error
    if not intact:
        raise CheckpointError(f"checkpoint {path} is refused: {MANIFEST} is not what was saved (its own hash differs).")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {manifest['format']}, this version reads format {FORMAT}; continue "
            "the run with the version that wrote it."
        )
    return dict(manifest)


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    return _canonical({"manifest": manifest, "sha256": hashlib.sha256(_canonical(manifest)).hexdigest()})


def _canonical(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path.parent} is refused: {path.name}: {error.strerror}.") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
