"""Small files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, several_writers: bool = False) -> None:
    """Write a small file so that a reader, and the next process after a crash, finds the old content or the new one.

    The content goes into a partial file beside it, is flushed to the disk, and then takes the name. The partial file is
    `.NAME.partial`: what a killed process leaves of it is replaced by the next write. Where several processes may write
    the file at the same time, each needs a partial file of its own, and the last of them wins; then what a killed
    process leaves stays.

    Raises:
        OSError: when the disk refuses; the file is as it was, and nothing else is left.
    """
    data = content.encode() if isinstance(content, str) else content
    own = f"{uuid.uuid4().hex}." if several_writers else ""
    partial = path.with_name(f".{path.name}.{own}partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
