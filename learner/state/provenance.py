"""The code version of a run: a resumed run should continue with the same."""

from __future__ import annotations

import hashlib
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


@lru_cache(maxsize=1)
def code_fingerprint() -> dict[str, str]:
    """sha256 over the names and bytes of our sources, and the versions of the libraries that compute.

    Of the sources as they are when a process first asks: later edits do not change what it runs.
    """
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return {"sources": digest.hexdigest(), **{name: library_version(name) for name in LIBRARIES}}
