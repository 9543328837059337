"""Runs configurations over seeds and reports what each gains over the base, with confidence intervals.

    python -m evaluation.ablation --rows global rdp rdp_acd rc_grpo_paper quickstart --seeds 0 1 2 --out runs/ablation

Every run is an ordinary `python -m learner.main` in a process of its own, with its own run folder. Runs that are
finished under the same configuration are not done again. Flags such as --learner.steps 20 go to every run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from configs import exits
from configs.errors import ConfigError
from configs.load import config_hash, load_config
from configs.output import protect_output
from configs.paths import path_argument
from evaluation.report import Row, as_json, as_markdown, as_table
from evaluation.statistics import compare

ROWS = ("global", "rdp", "rdp_acd", "rc_grpo_paper", "quickstart")
METRICS = (
    "edit_score", "editscore_truth", "edit_accuracy", "edit_psnr", "background_psnr", "background_ssim",
    "edit_delta_e", "edit_saturation_drift", "edit_sharpness_drift", "background_cast_share")
LOG_TAIL = 30
"""Lines of a failed run's log that are shown."""

Runner = Callable[[Sequence[str], Path, threading.Event], int]
"""(command, log file, stop) -> exit status; ends early when `stop` is set."""
POLL_SECONDS = 0.5


class AblationError(RuntimeError):
    """The ablation cannot be completed; the sentence says which run, why, and what to do."""


@dataclass(frozen=True)
class Run:
    """One run: a row of the table under one seed."""

    row: str
    seed: int
    name: str
    folder: Path
    config_hash: str
    arguments: tuple[str, ...]

    @property
    def summary(self) -> Path:
        """Written by the run when it has ended well."""
        return self.folder / self.name / "summary.json"


def plan(rows: Sequence[str], seeds: Sequence[int], folder: Path, overrides: Sequence[str]) -> list[Run]:
    """Every run that the table needs, seed by seed, so that an interrupted ablation has whole columns.

    Args:
        rows: presets or paths of YAML files.
        seeds: of the runs.
        folder: of the run folders.
        overrides: flags of `learner.main` for every run.

    Raises:
        AblationError: when rows or seeds stand twice, or a flag belongs to the ablation.
        ConfigError: when a configuration is wrong; nothing has started then.
    """
    taken = ("--seed", "--name", "--folder", "--config", "--resume", "--dry-run")
    for flag in overrides:
        if flag.partition("=")[0] in taken:
            raise AblationError(f"{flag}: the ablation sets this for every run; leave it out (known: --rows, --seeds, "
                                "--out, --jobs, and flags of single settings such as --learner.steps 20).")
    labels = [Path(row).stem for row in rows]
    for what, values in (("--rows", labels), ("--seeds", list(seeds))):
        if len(set(values)) != len(values):
            raise AblationError(f"{what}: every one must stand once; seen {' '.join(map(str, values))}.")
    runs = []
    for seed in seeds:
        for row, label in zip(rows, labels, strict=True):
            name = f"{label}-seed{seed}"
            arguments = ("--config", row, "--seed", str(seed), "--name", name, "--folder", str(folder), *overrides)
            runs.append(Run(label, seed, name, folder, config_hash(load_config(arguments)), arguments))
    return runs


def check_writable(folder: Path, flag: str) -> None:
    """Makes the folder and a file in it, so that hours of runs are not followed by a table that cannot be kept.

    Raises:
        AblationError: naming the flag.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AblationError(
            f"{flag}: {folder} cannot be written ({error.strerror or error}); name another folder.") from error


def read_summary(run: Run) -> Mapping[str, Any] | None:
    """The summary of a finished run; None when it has not finished.

    Raises:
        AblationError: when the folder holds a run of another configuration.
    """
    if not run.summary.is_file():
        return None
    summary: Mapping[str, Any] = json.loads(run.summary.read_text(encoding="utf-8"))
    if summary["config_hash"] != run.config_hash:
        raise AblationError(
            f"{run.summary.parent} holds a run of another configuration ({summary['config_hash'][:12]}, wanted "
            f"{run.config_hash[:12]}); choose another --out or delete that folder.")
    return summary


def execute(run: Run, runner: Runner, stop: threading.Event) -> Mapping[str, Any]:
    """Does a run, or continues one that was interrupted, and returns its summary.

    Raises:
        AblationError: when it fails; the message ends with the end of its log.
    """
    command = [sys.executable, "-m", "learner.main", *run.arguments]
    if (run.summary.parent / "config.yaml").is_file():
        command.append("--resume")
    log = run.folder / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = runner(command, log, stop)
    summary = read_summary(run)
    if status in (exits.DONE, exits.UNUSABLE) and summary is not None:  # a control row may well ruin its editor
        return summary
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
    why = f"ended with status {status}" if status else "ended without a summary.json"
    raise AblationError("\n".join([f"Run {run.name} {why}. The end of {log}:", *tail]))


def run_process(command: Sequence[str], log: Path, stop: threading.Event) -> int:
    """Runs a command with its output appended to the log; asks it to end when `stop` is set; its exit status."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            while (status := process.poll()) is None:
                if stop.wait(POLL_SECONDS):
                    process.terminate()
                    return process.wait()
            return status


def collect(runs: Sequence[Run], jobs: int, runner: Runner, say: Callable[[str], None]) -> dict[str, Mapping[str, Any]]:
    """The summaries of all runs by name, doing those that are missing, `jobs` at a time.

    Raises:
        AblationError: of a run that failed; those that have not started by then do not start.
    """
    done = {run.name: summary for run in runs if (summary := read_summary(run)) is not None}
    missing = [run for run in runs if run.name not in done]
    say(f"{len(runs)} runs: {len(done)} finished before, {len(missing)} to do, {jobs} at a time")

    failed, stop = threading.Event(), threading.Event()

    def one(run: Run) -> tuple[str, Mapping[str, Any]] | None:
        if failed.is_set():
            return None
        try:
            summary = execute(run, runner, stop)
        except BaseException:
            failed.set()
            raise
        say(f"{run.name}: finished after {summary['seconds']['step']:.0f} s of training")
        return run.name, summary

    with ThreadPoolExecutor(jobs) as pool:
        try:  # a run is under way as soon as it is submitted
            futures = [pool.submit(one, run) for run in missing]
            wait(futures)
        except KeyboardInterrupt:
            failed.set()
            stop.set()
            raise
    # All have ended here, and `result` raises what one of them raised.
    done.update(pair for future in futures if (pair := future.result()) is not None)
    return done


def paired_final(summary: Mapping[str, Any]) -> dict[str, float]:
    """The base's means and what was gained on the tasks that both editors have an image of: a run that makes none of
    its worst tasks must not win by their absence."""
    gain = summary["gain"]["mean"]
    return {name: value + gain[name] for name, value in summary["base"]["mean"].items() if name in gain}


def summarise(runs: Sequence[Run], summaries: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The table's rows, in the order of the runs."""
    rows = []
    for label in dict.fromkeys(run.row for run in runs):
        mine = [run for run in runs if run.row == label]
        found = [summaries[run.name] for run in mine]
        # A continued run only knows the seconds since it was continued.
        seconds = [float(summary["seconds"]["step"]) for summary in found if summary["first_step"] == 0]
        rows.append(Row(
            name=label,
            seeds=tuple(run.seed for run in mine),
            config_hashes=tuple(run.config_hash for run in mine),
            training_seconds=sum(seconds) / len(seconds) if seconds else None,
            metrics=compare([s["base"]["mean"] for s in found], [paired_final(s) for s in found], METRICS),
        ))
    return rows


class Ended(Exception):
    """The runs did not come to their end, which has been said; `status` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def runs_ended_in_words(console: Console) -> Iterator[None]:
    """Says why runs within it failed or were stopped, and raises Ended then."""
    # Whoever ends this process by SIGTERM means its runs as well.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (AblationError, ConfigError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise Ended(1) from error
    except KeyboardInterrupt as stopped:
        console.print("Stopped. Finished runs are kept; the same command goes on from here.")
        raise Ended(130) from stopped
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None, runner: Runner = run_process) -> int:
    """Runs the ablation and writes report.md and report.json; 0 when all runs ended well."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.ablation", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help=f"presets or YAML files ({' '.join(ROWS)})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--out", type=path_argument, default=Path("runs/ablation"), help="folder of runs and report")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; more than one makes seconds incomparable")
    options, overrides = parser.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            runs = plan(options.rows, options.seeds, options.out, overrides)
            check_writable(options.out, "--out")
            summaries = collect(runs, max(1, options.jobs), runner, lambda text: console.print(text, markup=False))
            rows = summarise(runs, summaries)
    except Ended as ended:
        return ended.status
    console.print(as_table(rows))
    command = ["python", "-m", "evaluation.ablation", *(sys.argv[1:] if arguments is None else arguments)]
    (options.out / "report.md").write_text(as_markdown(rows, command), encoding="utf-8")
    (options.out / "report.json").write_text(
        json.dumps(as_json(rows, command), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"{options.out / 'report.md'} and report.json hold these numbers", markup=False)
    return 0


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
