"""What the tables of trained rows have in common: flags, runs, comparisons, files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.commands import command
from configs.paths import path_argument
from evaluation.ablation.rows import HEADLINE, summarise
from evaluation.plots import check_plots, plot_gains
from evaluation.report import Row, as_json, as_markdown, as_table, differences_in_markdown
from evaluation.row_files import TUNED
from evaluation.runs import Finished, RowSpec, Run, Runner, check_writable, collect, plan
from evaluation.significance import RowDifference, row_differences

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Trained:
    """The runs of a table and what came of them."""

    runs: Sequence[Run]
    done: Mapping[str, Finished]

    @property
    def rows(self) -> list[Row]:
        """The table's rows."""
        return summarise(self.runs, self.done)

    def differences(self, pairs: Sequence[tuple[str | None, str]]) -> list[RowDifference]:
        """Comparisons of pairs of rows in the headline metrics."""
        gains = {
            label: [self.done[run.name].gain for run in self.runs if run.row == label]
            for label in dict.fromkeys(run.row for run in self.runs)
        }
        return row_differences(gains, pairs, HEADLINE)


def parser(name: str, description: str, out: str, seeds: Sequence[int] = SEEDS) -> argparse.ArgumentParser:
    """The flags of every table of trained rows."""
    made = argparse.ArgumentParser(
        prog=command("evaluation.ablation", name),
        description=description,
        epilog="Further flags are those of learner.main, such as --learner.steps 20, and go to every run.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--seeds", nargs="+", type=int, default=list(seeds), help="one run of every row each (default %(default)s)"
    )
    made.add_argument(
        "--out", type=path_argument, default=Path(out), help="folder of runs and report (default %(default)s)"
    )
    made.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="concurrent runs; with more than one, timings are not comparable (default %(default)s)",
    )
    made.add_argument(
        "--tuned",
        type=path_argument,
        default=TUNED,
        help="folder of rows that evaluation.tune has written; presets stand in for those that it lacks "
        "(default %(default)s)",
    )
    return made


def train(
    rows: Sequence[str | RowSpec],
    options: argparse.Namespace,
    overrides: Sequence[str],
    runner: Runner,
    console: Console,
    folder: Path | None = None,
) -> Trained:
    """Every run of the rows, finished ones kept; in `folder`, by default --out.

    Raises:
        AblationError, ConfigError: as `evaluation.runs`; so where plots cannot be drawn, before anything runs.
    """
    check_plots()
    runs = plan(rows, options.seeds, folder or options.out, overrides)
    check_writable(options.out, "--out")
    return Trained(runs, collect(runs, max(1, options.jobs), runner, lambda text: console.print(text, markup=False)))


def typed(table: str, arguments: Sequence[str]) -> list[str]:
    """The command of a report."""
    return ["python", "-m", "evaluation.ablation", table, *arguments]


def write_report(
    console: Console,
    out: Path,
    title: str,
    trained: Trained,
    words: Sequence[str],
    pairs: Sequence[tuple[str | None, str]],
    sections: Mapping[str, Sequence[str]],
    name: str = "report",
    plots: Sequence[str] = (),
    **more: Any,
) -> None:
    """Print the table and write NAME.md, NAME.json and the plot NAME.png.

    Args:
        words: the command.
        pairs: rows that are compared.
        sections: sentences below a heading each; those without any are left out. They are in the JSON, too.
        plots: further images of --out that the page shows.
        more: further fields of the JSON.
    """
    rows, differences = trained.rows, trained.differences(pairs)
    console.print(as_table(rows))
    lines = differences_in_markdown(differences) if differences else []
    for heading, sentences in sections.items():
        if sentences:
            lines += ["", f"## {heading}", "", *(f"- {sentence}" for sentence in sentences)]
            console.print(f"{heading}:", *(f"- {sentence}" for sentence in sentences), sep="\n", markup=False)
    for image in (f"{name}.png", *plots):
        lines += ["", f"![{title}]({image})"]
    (out / f"{name}.md").write_text(as_markdown(rows, words, title, lines), encoding="utf-8")
    found = as_json(
        rows,
        words,
        differences=[{**asdict(one), "sign": one.sign} for one in differences],
        sections={heading: list(sentences) for heading, sentences in sections.items()},
        **more,
    )
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    plot_gains(out / f"{name}.png", rows, HEADLINE, title)
    console.print(f"{out / name}.md, .json and .png contain these numbers", markup=False)
