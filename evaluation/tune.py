"""Tuning of the ablation's rows with equal budgets on the validation split; writes them as configurations.

    python -m evaluation.tune --rows global rdp quickstart --out runs/tuning --jobs 2 --cluster.mode inline

A comparison at one learning rate compares learning rates as much as methods. Here every row gets --runs runs: over
LEARNING_RATES, then one beside the best of them (beyond it, where it is the first or the last), then two more, over the
weight of the background term where the row has one, else over the learning rate. The best run is the one that gains
most in OBJECTIVE on scenes of the validation split, which the tables do not show, among those that did not ruin their
editor or diverge. Finished runs are not done again. Flags such as --learner.steps 20 go to every run.

The rows are written to --write (evaluation/rows/tuned), each as what it changes of its preset, and all runs to
tuning.json there, where those of rows that other calls searched stay.
`python -m evaluation.ablation --rows evaluation/rows/tuned/rdp.yaml ...` compares them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from configs import exits
from configs.load import load_config
from configs.method_families import MethodConfig
from configs.output import protect_output
from configs.paths import path_argument
from configs.schema import RunConfig, ShapesData
from evaluation.ablation.rows import ROWS
from evaluation.row_files import RECORD, TUNED, recorded_searches, write_row
from evaluation.runs import (
    UNUSABLE,
    AblationError,
    Ended,
    Outcome,
    Runner,
    check_writable,
    collect,
    plan,
    run_process,
    runs_ended_in_words,
    unusable,
)

RUNS = 6
"""Per row, by default."""
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
BEYOND = 2.0
"""Factor on the learning rate at the border of the tried range."""
BACKGROUND_FACTORS = (0.5, 2.0)
OBJECTIVE = "editscore_truth"
"""EditScore's formula from ground truth: it falls with what was not edited and with what was edited too much."""
SEED = 0
SPLIT = "validation"
ON_SPLIT = ("--data.held_out_split", SPLIT)


@dataclass(frozen=True)
class Trial:
    """One run of the search: the row, what it sets, and, once it is done, its gains over the base and its outcome."""

    row: str
    lr: float
    background_weight: float | None
    gains: dict[str, float] | None = None
    outcome: Outcome | None = None

    @property
    def objective(self) -> float:
        """The gain in OBJECTIVE; below all others where there is none, and where the editor is of no use: its gain is
        over the tasks that it still has an image of."""
        if self.gains is None or self.outcome in UNUSABLE:
            return -math.inf
        return self.gains.get(OBJECTIVE, -math.inf)

    def settings(self) -> dict[str, Any]:
        """The trial as part of a configuration."""
        settings: dict[str, Any] = {"learner": {"optimizer": {"lr": self.lr}}}
        if self.background_weight is not None:
            settings["algorithm"] = {"preservation": {"background_weight": self.background_weight}}
        return settings


def next_trials(row: str, background_weight: float | None, done: Sequence[Trial], runs: int = RUNS) -> list[Trial]:
    """The trials to run after those that the row has `done`; none once it has had its `runs`.

    Args:
        row: preset or file.
        background_weight: the row's own; None where it is not searched over.
        done: trials of this row, with their gains.
    """
    if not done:
        return [Trial(row, lr, background_weight) for lr in LEARNING_RATES]
    if len(done) >= runs:
        return []
    if background_weight is None or len(done) == len(LEARNING_RATES):
        return [Trial(row, next_lr({trial.lr: trial.objective for trial in done}), background_weight)]
    best = best_of(done)
    return [Trial(row, best.lr, background_weight * factor) for factor in BACKGROUND_FACTORS][: runs - len(done)]


def next_lr(found: Mapping[float, float]) -> float:
    """Where to look next, given the objective by learning rate: beyond the best if it is the first or the last, else in
    the middle (of the logarithm) of the wider gap beside it, of equal ones that to the better neighbour."""
    tried = sorted(found)
    place = tried.index(max(tried, key=found.__getitem__))
    best = tried[place]
    if place == 0:
        return best / BEYOND
    if place == len(tried) - 1:
        return best * BEYOND
    beside = max((tried[place - 1], tried[place + 1]), key=lambda lr: (round(abs(math.log(lr / best)), 6), found[lr]))
    return math.sqrt(best * beside)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest objective; the earlier one of equals."""
    return max(trials, key=lambda trial: trial.objective)


def _background_weight(method: MethodConfig) -> float | None:
    """What is searched over: not where it is off, and not where it is the only term, so that Adam removes its scale."""
    weight = method.preservation.background_weight
    return weight if weight > 0 and method.weight > 0 else None


def search(
    rows: Sequence[str],
    per_row: int,
    out: Path,
    overrides: Sequence[str],
    jobs: int,
    runner: Runner,
    say: Callable[[str], None],
) -> list[Trial]:
    """All finished trials of all rows, `per_row` of each.

    Raises:
        AblationError: when a row has nothing to measure by or would be tuned on another split, and as
            `evaluation.runs`; so ConfigError.
    """
    configs = {row: load_config(["--config", row, *overrides]) for row in rows}
    for row, config in configs.items():
        if not isinstance(config.data, ShapesData) or not config.data.held_out_tasks:
            raise AblationError(
                f"{row}: rows are compared by {OBJECTIVE} on validation scenes of the benchmark, so "
                "expected data.type shapes and data.held_out_tasks above 0"
            )
        data = load_config(["--config", row, *ON_SPLIT, *overrides]).data
        if isinstance(data, ShapesData) and data.held_out_split != SPLIT:  # however the flag is spelled
            raise AblationError(
                f"--data.held_out_split: rows are tuned on the {SPLIT} split, so that none is chosen "
                f"by scenes that the tables show, got {data.held_out_split}. Leave the flag out."
            )
    done: list[Trial] = []

    def further_of(row: str, config: RunConfig) -> list[Trial]:
        mine = [one for one in done if one.row == row]
        return next_trials(row, _background_weight(config.algorithm), mine, per_row)

    while further := [trial for row, config in configs.items() for trial in further_of(row, config)]:
        done += _run(further, out, overrides, jobs, runner, say)
    return done


def _run(
    trials: Sequence[Trial], out: Path, overrides: Sequence[str], jobs: int, runner: Runner, say: Callable[[str], None]
) -> list[Trial]:
    files = [_written(trial, out / "trials") for trial in trials]
    runs = plan([str(file) for file in files], [SEED], out, [*ON_SPLIT, *overrides])
    done = collect(runs, jobs, runner, say)
    found = []
    for trial, run in zip(trials, runs, strict=True):
        gains = dict(sorted(done[run.name].gain.items()))
        found.append(replace(trial, gains=gains, outcome=done[run.name].outcome))
    return found


def _written(trial: Trial, folder: Path) -> Path:
    """The trial as a configuration file, named after its settings."""
    weight = "" if trial.background_weight is None else f"-background{trial.background_weight:.3g}"
    path = folder / f"{Path(trial.row).stem}-lr{trial.lr:.3g}{weight}.yaml"
    write_row(path, trial.row, trial.settings())
    return path


def main(arguments: Sequence[str] | None = None, runner: Runner = run_process) -> int:
    """Run the search and write the rows; 0 if every row is tuned, `exits.UNUSABLE` if one has no usable run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.tune",
        description=__doc__.split("\n")[0],
        epilog="Further flags are those of learner.main, such as --learner.steps 20, and go to every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), help=f"presets or YAML files (default {' '.join(ROWS)})"
    )
    parser.add_argument(
        "--out", type=path_argument, default=Path("runs/tuning"), help="folder of the runs (default %(default)s)"
    )
    parser.add_argument(
        "--write",
        type=path_argument,
        default=TUNED,
        help="folder of the tuned rows and of tuning.json (default %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="concurrent runs (default %(default)s)")
    parser.add_argument(
        "--runs",
        type=int,
        default=RUNS,
        help=f"runs of every row, at least {len(LEARNING_RATES)} (default %(default)s)",
    )
    options, overrides = parser.parse_known_args(arguments)
    if options.runs < len(LEARNING_RATES):
        parser.error(f"--runs: expected at least {len(LEARNING_RATES)}, one per learning rate, got {options.runs}")
    console = Console(highlight=False)
    record = options.write / RECORD
    try:
        with runs_ended_in_words(console):
            check_writable(options.out, "--out")
            check_writable(options.write, "--write")
            recorded_searches(record)
            trials = search(
                options.rows,
                options.runs,
                options.out,
                overrides,
                max(1, options.jobs),
                runner,
                lambda text: console.print(text, markup=False),
            )
            console.print(_table(trials))
            check_writable(options.write, "--write")  # hours later
            _record(record, trials, sys.argv[1:] if arguments is None else arguments)
    except Ended as ended:
        return ended.status
    written = [
        _write_best(row, [trial for trial in trials if trial.row == row], options.write, console)
        for row in options.rows
    ]
    console.print(f"{options.write} holds {'the tuned rows and ' if any(written) else ''}tuning.json", markup=False)
    return exits.DONE if all(written) else exits.UNUSABLE


def _write_best(row: str, trials: Sequence[Trial], folder: Path, console: Console) -> bool:
    """Write the tuned row; report that there is none, and return False, if no trial is usable."""
    path, best = folder / f"{Path(row).stem}.yaml", best_of(trials)
    if best.objective > -math.inf:
        write_row(path, row, best.settings(), "# Written by evaluation.tune; tuning.json beside it holds the search.\n")
        return True
    count = unusable([trial.outcome for trial in trials if trial.outcome is not None])
    console.print(
        f"{row}: no tuned row is written, since no run trained a usable editor with a gain in {OBJECTIVE} "
        f"({count or 'nothing was measured'}). Try a lower editor.lora.alpha or fewer learner.steps."
        + (f" {path} is of an earlier search." if path.exists() else ""),
        markup=False,
        soft_wrap=True,
    )
    return False


def _record(path: Path, trials: Sequence[Trial], arguments: Sequence[str]) -> None:
    """Replace earlier trials of the same rows.

    Raises:
        AblationError: see `recorded_searches`.
    """
    earlier = recorded_searches(path)
    found = {
        Path(row).stem: {
            "command": ["python", "-m", "evaluation.tune", *arguments],
            "objective": OBJECTIVE,
            "seed": SEED,
            "trials": [asdict(trial) for trial in trials if trial.row == row],
        }
        for row in dict.fromkeys(trial.row for trial in trials)
    }
    path.write_text(json.dumps({"rows": {**earlier, **found}}, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _table(trials: Sequence[Trial]) -> Table:
    metrics = (OBJECTIVE, "edit_score", "edit_psnr", "background_psnr")
    table = Table(title="Gains on validation scenes", caption="* = chosen", caption_justify="left")
    for column in ("row", "lr", "background", *metrics, "outcome"):
        table.add_column(column, justify="left" if column == "row" else "right", overflow="fold")
    for trial in trials:
        best = best_of([other for other in trials if other.row == trial.row])
        gains = trial.gains or {}
        chosen = trial is best and best.objective > -math.inf
        table.add_row(
            Path(trial.row).stem + ("*" if chosen else ""),
            f"{trial.lr:.2g}",
            "–" if trial.background_weight is None else f"{trial.background_weight:.2g}",
            *(f"{gains[name]:+.3f}" if name in gains else "–" for name in metrics),
            trial.outcome or "",
        )
    return table


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
