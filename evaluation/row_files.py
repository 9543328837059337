"""Rows as files: those that a search has tuned, and those that are written."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.commands import command
from configs.text import shown
from evaluation.runs import AblationError, RowSpec

TUNED = Path("evaluation/rows/tuned")
RECORD = "tuning.json"


def extended(row: str, folder: Path) -> str:
    """What a file of `folder` names to extend the row: a preset by name, a file by its path relative to that folder."""
    return os.path.relpath(row, folder) if row.endswith((".yaml", ".yml")) else row


def write_row(path: Path, row: str, settings: Mapping[str, Any], comment: str = "") -> None:
    """Write a configuration that extends `row`, named after the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"extends": extended(row, path.parent), "name": path.stem, **settings}
    path.write_text(comment + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def recorded_searches(path: Path) -> dict[str, Any]:
    """The rows searched by earlier calls, by name.

    Raises:
        AblationError: when the file is none that this module has written.
    """
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        rows = f"{type(error).__name__}: {error}"
    if not isinstance(rows, dict):
        raise AblationError(
            f"{path}: expected the searches of earlier calls, got {shown(rows)}; their rows would be "
            "lost. Restore the file, rename it, or name another folder with --write."
        )
    return rows


def tuned_rows(rows: Sequence[str], folder: Path) -> tuple[list[RowSpec], list[str]]:
    """The presets `rows` as `evaluation.tune` has written them to the folder, or as they are; and notes that say which
    are which. Files among the rows are taken as they are.

    Raises:
        AblationError: when there is no such folder.
    """
    if not folder.is_dir():
        raise AblationError(f"--tuned: expected a folder of rows that evaluation.tune wrote, got {folder}.")
    searched = recorded_searches(folder / RECORD)
    specs, without = [], []
    by_search: dict[str, list[str]] = {}
    for row in rows:
        name, file = Path(row).stem, folder / f"{row}.yaml"
        if row.endswith((".yaml", ".yml")) or not file.is_file():
            specs.append(RowSpec(name, row))
            without += [row]
        else:
            specs.append(RowSpec(name, str(file)))
            how = shlex.join(searched.get(name, {}).get("command", ["an unrecorded search"]))
            by_search.setdefault(how, []).append(name)
    notes = [
        f"Settings of {', '.join(names)}, found on validation scenes by: {how}" for how, names in by_search.items()
    ]
    if without:
        notes.append(
            f"Not tuned, so at their own settings: {', '.join(without)}. A search for them: "
            + command("evaluation.tune", "--rows", *without)
        )
    return specs, notes
