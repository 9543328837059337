"""The folder of a Ray that a run starts itself: nobody else can enter it, and its sockets, which ask nobody for a
password, have paths that are short enough."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

LONGEST_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux."""
LONGEST_WITHIN = len("/session_2026-11-29_09-03-11_844761_4194304/sockets/plasma_store")
"""What Ray adds to the folder that it is given."""


def private_folder() -> Path:
    """A new folder for Ray, below RAY_TMPDIR or the system's temporary folder, as Ray has it.

    Ray opens its folder to everybody, hence the one around it, which is this user's alone. Where the path would be too
    long for sockets, a link in such a folder below /tmp stands for it.

    Raises:
        OSError: when there cannot be one.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    base.mkdir(parents=True, exist_ok=True)
    folder = _within(base)
    folder.mkdir()
    if len(os.fsencode(folder)) + LONGEST_WITHIN <= LONGEST_SOCKET_PATH:
        return folder
    link = _within(Path("/tmp"))
    link.symlink_to(folder)
    return link


def remove(folder: Path) -> None:
    """Removes a `private_folder`, with the link that may stand for it; what Ray's last processes write is lost."""
    for outer in {folder.parent, folder.resolve().parent}:
        shutil.rmtree(outer, ignore_errors=True)


def _within(base: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="locus-ray-", dir=base)) / "ray"  # the outer one has mode 0700
