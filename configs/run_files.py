"""Which run a configuration file belongs to: the one in whose folder it lies, whatever name stands in the file.

A run writes its configuration into its own folder. Folders are renamed, moved and copied; the name in the file is then
that of another run, which a resume must not touch. A copy of that file alone, outside of any run folder, can only say
its name; it is told apart from a configuration that somebody wrote by its first line.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = "config.yaml"
EVENTS = "events.jsonl"
LOCK = ".lock"
HEADING = "# sha256 "
"""Begins the configuration that a run writes; the hash of its values follows."""


def run_of(file: Path) -> dict[str, str]:
    """`name` and `folder` of the run that a configuration file belongs to; empty for a file that belongs to none.

    A run's folder holds an event log, checkpoints, or at least a lock from the moment before there was either.
    """
    marks = (EVENTS, LOCK, "checkpoints/step_*")
    if file.name != CONFIG or not any(any(file.parent.glob(mark)) for mark in marks):
        return {}
    # `config.yaml` and `../config.yaml` do not spell their folder's name.
    run = file.parent if file.parent.name not in ("", "..") else file.parent.resolve()
    return {"name": run.name, "folder": str(run.parent)}


def hash_in(file: Path) -> str | None:
    """The hash in the first line of a configuration that a run wrote; None for any other file."""
    with file.open(encoding="utf-8") as lines:
        found = re.fullmatch(rf"{HEADING}([0-9a-f]{{64}})\n", lines.readline())
    return found and found[1]
