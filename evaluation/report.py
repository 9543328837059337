"""The ablation's table: for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from evaluation.statistics import Comparison

COLUMNS = ("metric", "row", "seeds", "base", "trained", "difference", "95 % interval", "")
MARKS = {1: "▲", -1: "▼", 0: ""}
"""Above or below the base with a 95 % interval that excludes zero."""
NOTE = ("Means over seeds. The difference is trained minus base on the same held-out tasks and noise; its interval is "
        "Student's t over the seeds. ▲ and ▼: the interval excludes zero.")


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds.

    `training_seconds` is the mean wall time of all optimizer steps, over the runs that were not interrupted; None
    when all were.
    """

    name: str
    seeds: tuple[int, ...]
    config_hashes: tuple[str, ...]
    training_seconds: float | None
    metrics: Mapping[str, Comparison]


def cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """The table's cells under COLUMNS, metric by metric, all rows below each."""
    for metric in dict.fromkeys(name for row in rows for name in row.metrics):
        for row in (row for row in rows if metric in row.metrics):
            found = row.metrics[metric]
            difference, digits = found.difference, 2 if metric.endswith("psnr") else 4
            interval = "–"
            if difference.low is not None and difference.high is not None:
                interval = f"{difference.low:+.{digits}f} … {difference.high:+.{digits}f}"
            yield (metric, row.name, str(len(row.seeds)), f"{found.base:.{digits}f}", f"{found.final:.{digits}f}",
                   f"{difference.mean:+.{digits}f}", interval, MARKS[difference.sign])


def as_table(rows: Sequence[Row]) -> Table:
    """For a terminal."""
    table = Table(title="Held-out gains", caption=NOTE, caption_justify="left")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    last = None
    for line in cells(rows):
        if last is not None and line[0] != last:
            table.add_section()
        table.add_row("" if line[0] == last else line[0], *line[1:])
        last = line[0]
    table.add_section()
    for row in rows:
        table.add_row("seconds of training", row.name, str(len(row.seeds)), "", clock(row.training_seconds))
    return table


def clock(seconds: float | None) -> str:
    """Whole seconds, or a dash."""
    return "–" if seconds is None else f"{seconds:.0f}"


def as_markdown(rows: Sequence[Row], command: Sequence[str]) -> str:
    """The same as a Markdown page."""
    lines = ["# Ablation", "", f"`{shlex.join(command)}`", "", NOTE, "",
             "| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 3) + "---|"]
    lines += ["| " + " | ".join(line) + " |" for line in cells(rows)]
    lines += ["", "| row | seeds | seconds of training |", "|---|---|---:|"]
    lines += [f"| {row.name} | {' '.join(map(str, row.seeds))} | {clock(row.training_seconds)} |" for row in rows]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], command: Sequence[str]) -> dict[str, Any]:
    """The same as JSON values, with the hash of every run's configuration."""
    return {"command": list(command), "confidence": 0.95, "rows": [asdict(row) for row in rows]}
