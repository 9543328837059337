"""Cache of the checks of a manifest's lines, so that the next opening need not decode every image.

A line counts as checked while its text and the size, times and inode of its files are the same. Nothing is trusted
further than that: a task's files are compared with their sha256 whenever it is read. The cache is JSON, and what does
not fit in it is checked again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from editing.manifest.notes import Note
from locus.common.files import write_whole

VERSION = 2
"""Increment when the same file would be checked or read differently."""
KEY = 32


class Stamp(NamedTuple):
    """A file's identity when it was read."""

    size: int
    modified: int
    changed: int
    inode: int


class Checked(NamedTuple):
    """The result of checking a line: stamp and sha256 of each file by field, and the fields of `CheckedRecord`."""

    stamps: dict[str, Stamp]
    digests: dict[str, str]
    height: int
    width: int
    editable: float
    source_digest: str
    mask_digest: str
    notes: tuple[Note, ...]


_CHECKED = TypeAdapter(Checked)


def stamps_of(files: Mapping[str, str]) -> dict[str, Stamp]:
    """The stamps of files by field; files that cannot be accessed are left out."""
    found = {}
    for field, path in files.items():
        try:
            status = os.stat(path)
        except OSError:
            continue
        found[field] = Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return found


class CheckCache:
    """The checked lines of one manifest, in a file in `folder`; without a folder nothing is cached."""

    def __init__(self, folder: Path | None, context: str) -> None:
        """`context`: everything else that a check depends on; each context has its own file."""
        name = hashlib.sha256(f"{VERSION}/{context}".encode()).hexdigest()[:KEY]
        self._path = None if folder is None else folder / f"{name}.jsonl"
        self._before = self._read()
        self._now: dict[bytes, bytes] = {}

    def _read(self) -> dict[bytes, bytes]:
        # Rows are parsed on access: a hundred thousand objects would take ten times the memory.
        try:
            rows = b"" if self._path is None else self._path.read_bytes()
        except OSError:
            return {}
        return {row[:KEY]: row[KEY:] for row in rows.split(b"\n") if len(row) > KEY}

    def get(self, text: bytes, files: Mapping[str, str]) -> Checked | None:
        """The cached result for the line `text`, if its files are unchanged."""
        key = _key(text)
        row = self._before.get(key)
        if row is None:
            return None
        try:
            checked = _CHECKED.validate_json(row)
        except ValidationError:
            return None
        if checked.stamps != stamps_of(files) or checked.digests.keys() != files.keys():
            return None
        self._now[key] = row
        return checked

    def put(self, text: bytes, checked: Checked) -> None:
        """Store a result."""
        self._now[_key(text)] = to_json(checked)

    def save(self) -> None:
        """Write the results found or used by this opening; if that fails, the next opening checks again."""
        if self._path is None or self._now == self._before:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = b"".join(key + row + b"\n" for key, row in self._now.items())
            write_whole(self._path, content, several_writers=True)


def _key(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:KEY].encode()
