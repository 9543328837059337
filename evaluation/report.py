"""The ablation's table: for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from evaluation.runs import Outcome, unusable
from evaluation.significance import RowDifference
from evaluation.statistics import Comparison, Interval

COLUMNS = ("metric", "row", "seeds", "base", "trained", "difference", "95 % interval", "")
MARKS = {1: "▲", -1: "▼", 0: ""}
"""Signs of a difference whose 95 % interval excludes zero."""
BAD = "✗"
"""Abbreviation for a terminal: not all runs of the row are usable."""
NOTE = (
    "Means over seeds. The difference is trained minus base on the same held-out tasks and noise; its interval is "
    "Student's t over the seeds. ▲ and ▼: the interval excludes zero. Ruined runs: the trained editor lies far "
    "below the base or makes no image of some tasks, which are then in no difference. Diverged runs: the weights "
    "grew beyond all numbers, and nothing was measured."
)

DIFFERENCES_NOTE = (
    "Gains of the second row minus those of the first, paired by seed. p: two-sided paired t test; corrected: Holm's "
    "procedure over the comparisons of one metric. ▲ and ▼: the corrected probability is below .05."
)


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds.

    `config_hashes` and `outcomes` are in the order of `seeds`. A metric is over the seeds that have it, which may be
    fewer. `training_seconds` is the mean wall time of all optimizer steps, over the runs that were not interrupted and
    did not diverge; None when there are none.
    """

    name: str
    seeds: tuple[int, ...]
    config_hashes: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    training_seconds: float | None
    metrics: Mapping[str, Comparison]

    @property
    def unusable(self) -> str:
        """How many of its runs trained no usable editor, such as `ruined 2 of 5`; empty for none."""
        return unusable(self.outcomes)


def cells(rows: Sequence[Row], bad: str | None = None) -> Iterator[tuple[str, ...]]:
    """The table's cells under COLUMNS, metric by metric, all rows below each; `bad` in the place of the words that say
    how many runs are not usable."""
    for metric in dict.fromkeys(name for row in rows for name in row.metrics):
        for row in (row for row in rows if metric in row.metrics):
            found = row.metrics[metric]
            difference, digits = found.difference, digits_of(metric)
            of = f" of {len(row.seeds)}" if difference.count < len(row.seeds) else ""
            remark = bad if bad is not None and row.unusable else row.unusable
            yield (
                metric,
                row.name,
                f"{difference.count}{of}",
                f"{found.base:.{digits}f}",
                f"{found.final:.{digits}f}",
                f"{difference.mean:+.{digits}f}",
                interval_text(difference, digits),
                f"{MARKS[difference.sign]} {remark}".strip(),
            )


def as_table(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    unusable_rows = [row for row in rows if row.unusable]
    note = f"{NOTE} {BAD}: the row has such runs, see the last lines." if unusable_rows else NOTE
    table = Table(title="Held-out gains", caption=note, caption_justify="left")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    last = None
    for line in cells(rows, BAD):
        if last is not None and line[0] != last:
            table.add_section()
        table.add_row("" if line[0] == last else line[0], *line[1:])
        last = line[0]
    table.add_section()
    for row in rows:
        table.add_row("seconds of training", row.name, str(len(row.seeds)), "", clock(row.training_seconds))
    for row in unusable_rows:
        for words in row.unusable.split(", "):
            table.add_row(words, row.name, style="red")
    return table


def clock(seconds: float | None) -> str:
    """Whole seconds, or a dash."""
    return "–" if seconds is None else f"{seconds:.0f}"


def as_markdown(rows: Sequence[Row], command: Sequence[str], title: str = "Ablation", more: Sequence[str] = ()) -> str:
    """The table as a Markdown page, `more` lines after it."""
    lines = [
        f"# {title}",
        "",
        f"`{shlex.join(command)}`",
        "",
        NOTE,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(COLUMNS) - 3) + "---|",
    ]
    lines += ["| " + " | ".join(line) + " |" for line in cells(rows)]
    lines += ["", "| row | seeds | seconds of training | |", "|---|---|---:|---|"]
    lines += [
        f"| {row.name} | {' '.join(map(str, row.seeds))} | {clock(row.training_seconds)} | {row.unusable} |"
        for row in rows
    ]
    return "\n".join([*lines, *more]) + "\n"


def differences_in_markdown(differences: Sequence[RowDifference]) -> list[str]:
    """A section with the paired comparisons of rows."""
    lines = ["", "## Rows against rows", "", DIFFERENCES_NOTE, ""]
    lines += [
        "| metric | step | seeds | difference | 95 % interval | p | corrected | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in differences:
        found, digits = one.difference, digits_of(one.metric)
        entries = (
            one.metric,
            f"{one.before or 'base'} → {one.after}",
            str(found.count),
            f"{found.mean:+.{digits}f}",
            interval_text(found, digits),
            probability(one.p),
            probability(one.corrected),
            MARKS[one.sign],
        )
        lines.append(f"| {' | '.join(entries)} |")
    return lines


def probability(p: float | None) -> str:
    """Two significant digits, or a dash."""
    return "–" if p is None else f"{p:.2g}"


def digits_of(metric: str) -> int:
    """Digits after the point: dB are large numbers."""
    return 2 if metric.endswith("psnr") else 4


def interval_text(interval: Interval, digits: int) -> str:
    """`low … high` with signs, or a dash."""
    if interval.low is None or interval.high is None:
        return "–"
    return f"{interval.low:+.{digits}f} … {interval.high:+.{digits}f}"


def as_json(rows: Sequence[Row], command: Sequence[str], **more: Any) -> dict[str, Any]:
    """The table as JSON values, with the configuration hash and the outcome of every run; `more` fields after them."""
    return {
        "command": list(command),
        "confidence": 0.95,
        "rows": [{**asdict(row), "unusable": row.unusable} for row in rows],
        **more,
    }
