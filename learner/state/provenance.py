"""The code version of a run: a resumed run should continue with the same."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("locus/common", "configs", "editing", "actors", "rewards", "learner")
"""Our packages that have a part in the numbers; where processes run (`cluster`) has none."""
LIBRARIES = ("torch", "diffusers", "peft")


def library_version(name: str) -> str:
    """The installed version, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def code_fingerprint(modules: Iterable[str] = ()) -> dict[str, str]:
    """sha256 over the names and bytes of our sources, the versions of the libraries that compute, and sha256 of the
    `modules` that a configuration names (`RunConfig.own_modules`); what those import is not followed.

    Of the sources as they are when a process first asks: later edits do not change what it runs.
    """
    return {**_ours(), **{f"module {name}": _module(name) for name in modules}}


@lru_cache
def _module(name: str) -> str:
    """sha256 of its file, or `absent`."""
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:  # of a package that it lies in
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return "absent"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _ours() -> dict[str, str]:
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return {"sources": digest.hexdigest(), **{name: library_version(name) for name in LIBRARIES}}
