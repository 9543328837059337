"""Which run a configuration file belongs to: the one whose folder it is in, whatever name the file contains.

A run writes its configuration into its own folder. Once the folder is renamed, moved or copied, the name in the file is
that of another run, which a resume must not touch. A copy of the file outside any run folder has nothing but that name;
its first line distinguishes it from a configuration written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = "config.yaml"
EVENTS = "events.jsonl"
LOCK = ".lock"
HEADING = "# sha256 "
"""First line of a configuration written by a run, followed by the hash of its values."""


def run_of(file: Path) -> dict[str, str]:
    """`name` and `folder` of the run that a configuration file belongs to; empty if it belongs to none.

    A run's folder holds an event log, checkpoints, or at least the lock that precedes both.
    """
    marks = (EVENTS, LOCK, "checkpoints/step_*")
    if file.name != CONFIG or not any(any(file.parent.glob(mark)) for mark in marks):
        return {}
    # `config.yaml` and `../config.yaml` do not contain their folder's name.
    run = file.parent if file.parent.name not in ("", "..") else file.parent.resolve()
    return {"name": run.name, "folder": str(run.parent)}


def hash_in(file: Path) -> str | None:
    """The hash in the first line of a configuration written by a run; None for any other file."""
    with file.open(encoding="utf-8") as lines:
        found = re.fullmatch(rf"{HEADING}([0-9a-f]{{64}})\n", lines.readline())
    return found and found[1]
