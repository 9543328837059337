"""The private folder of a local Ray: other users cannot enter it, since Ray's sockets are unauthenticated, and socket
paths in it are short enough."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

LONGEST_SOCKET_PATH = 107
"""Maximum length of a Unix socket's path on Linux, in bytes."""
LONGEST_WITHIN = len("/session_2026-11-29_09-03-11_844761_4194304/sockets/plasma_store")
"""Length of what Ray appends to its folder."""


def private_folder() -> Path:
    """Create a folder for Ray in RAY_TMPDIR or the system's temporary folder, as Ray does.

    Ray makes its folder accessible to everyone, hence the outer one with access for this user only. If the path would
    be too long for sockets, the result is a link to it in such a folder in /tmp.

    Raises:
        OSError: the folder cannot be created.
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
    """Remove a `private_folder`, including a link to it; anything that Ray's last processes still write is lost."""
    for outer in {folder.parent, folder.resolve().parent}:
        shutil.rmtree(outer, ignore_errors=True)


def _within(base: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="locus-ray-", dir=base)) / "ray"  # the outer one has mode 0700
