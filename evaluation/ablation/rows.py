"""Any rows over seeds: each one's gains over the base, with confidence intervals.

    python -m evaluation.ablation --rows global rdp rdp_acd rc_grpo_paper rc_grpo --seeds 0 1 2 --out runs/ablation

Every run is an ordinary `python -m learner.main` in a process of its own, with its own run folder. Runs that are
finished under the same configuration are not done again, nor are those that diverged: a run that ruins its editor is a
result, and its row says so. Flags such as --learner.steps 20 go to every run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from configs.paths import path_argument
from evaluation.report import Row, as_json, as_markdown, as_table
from evaluation.runs import (
    Ended,
    Finished,
    Run,
    Runner,
    check_writable,
    collect,
    plan,
    run_process,
    runs_ended_in_words,
)
from evaluation.statistics import compare

ROWS = ("global", "rdp", "rdp_acd", "rc_grpo_paper", "rc_grpo")
METRICS = (
    "edit_score",
    "editscore_truth",
    "edit_accuracy",
    "edit_psnr",
    "background_psnr",
    "background_ssim",
    "edit_delta_e",
    "edit_saturation_drift",
    "edit_sharpness_drift",
    "background_cast_share",
    "background_pyramid",
)
HEADLINE = (
    "edit_score",
    "editscore_truth",
    "edit_accuracy",
    "edit_psnr",
    "background_psnr",
    "background_ssim",
    "background_pyramid",
)
"""Those that rows are compared by."""


def summarise(runs: Sequence[Run], done: Mapping[str, Finished]) -> list[Row]:
    """The table's rows, in run order."""
    rows = []
    for label in dict.fromkeys(run.row for run in runs):
        mine = [run for run in runs if run.row == label]
        found = [done[run.name] for run in mine]
        seconds = [one.training_seconds for one in found if one.training_seconds is not None]
        rows.append(
            Row(
                name=label,
                seeds=tuple(run.seed for run in mine),
                config_hashes=tuple(run.config_hash for run in mine),
                outcomes=tuple(one.outcome for one in found),
                training_seconds=sum(seconds) / len(seconds) if seconds else None,
                metrics=compare([one.base for one in found], [one.final for one in found], METRICS),
            )
        )
    return rows


def main(arguments: Sequence[str], runner: Runner = run_process) -> int:
    """Run the ablation and write report.md and report.json; 0 if all runs finished, with whatever outcome."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.ablation",
        description=(__doc__ or "").split("\n")[0],
        epilog="Further flags are those of learner.main, such as --learner.steps 20, and go to every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), help=f"presets or YAML files (default {' '.join(ROWS)})"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of every row each (default 0 1 2)"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("runs/ablation"),
        help="folder of runs and report (default %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="concurrent runs; with more than one, timings are not comparable (default %(default)s)",
    )
    options, overrides = parser.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            runs = plan(options.rows, options.seeds, options.out, overrides)
            check_writable(options.out, "--out")
            done = collect(runs, max(1, options.jobs), runner, lambda text: console.print(text, markup=False))
            rows = summarise(runs, done)
    except Ended as ended:
        return ended.status
    console.print(as_table(rows))
    command = ["python", "-m", "evaluation.ablation", *arguments]
    (options.out / "report.md").write_text(as_markdown(rows, command), encoding="utf-8")
    (options.out / "report.json").write_text(
        json.dumps(as_json(rows, command), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    console.print(f"{options.out / 'report.md'} and report.json contain these numbers", markup=False)
    return 0
