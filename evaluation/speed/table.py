"""Tables of ratios: for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from evaluation.speed.timing import Measured
from evaluation.statistics import paired_ratios, spread


def ratio(
    name: str,
    numerator: Sequence[float],
    denominator: Sequence[float],
    goal: float | None = None,
    at_least: bool = False,
) -> Measured:
    """A row of the table from paired timings."""
    return Measured(name, paired_ratios(numerator, denominator), spread(numerator), spread(denominator), goal, at_least)


def as_table(rows: Sequence[Measured], title: str) -> Table:
    """The table for a terminal."""
    table = Table(
        title=title,
        title_justify="left",
        caption="Medians (quartiles); ratios are taken pair by pair.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for column in ("ratio", "goal", "ms / ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        goal = "" if row.goal is None else f"{sign} {row.goal:.2f} {'✓' if row.reached else '✗'}"
        table.add_row(
            row.name,
            f"{row.ratio.median:.3f} ({row.ratio.low:.3f}–{row.ratio.high:.3f})",
            Text(goal, style="green" if row.reached else "red"),
            f"{milliseconds(row.numerator.median)} / {milliseconds(row.denominator.median)}",
        )
    return table


def milliseconds(seconds: float) -> str:
    """At least three significant digits of a number of milliseconds."""
    return f"{1e3 * seconds:#.3g}".rstrip(".") if seconds < 1 else f"{1e3 * seconds:.0f}"


def as_json(rows: Sequence[Measured], about: dict[str, Any]) -> dict[str, Any]:
    """The table as JSON values, in seconds throughout."""
    return {**about, "rows": [{**asdict(row), "reached": row.reached} for row in rows]}
