"""Runs of configurations as separate processes: planned, executed unless already finished, and read.

A run that ruins its editor, or whose weights grow beyond all numbers, is a result like any other; `Finished` says so.
"""

from __future__ import annotations

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
from typing import Any, Literal

from rich.console import Console

from configs import exits
from configs.errors import ConfigError
from configs.load import config_hash, load_config
from configs.run_files import EVENTS
from learner.state.event_log import read_events
from learner.state.event_record import EventError
from learner.state.provenance import code_fingerprint

LOG_TAIL = 30
"""Number of lines shown of a failed run's log."""

Runner = Callable[[Sequence[str], Path, threading.Event], int]
"""(command, log file, stop) -> exit status; terminates early if `stop` is set."""
POLL_SECONDS = 0.5
Outcome = Literal["trained", "nothing_learnt", "ruined", "diverged"]
"""The outcomes of `learner.reporting.verdict`, and that of a run that stopped because its weights grew beyond all
numbers."""
UNUSABLE: tuple[Outcome, ...] = ("ruined", "diverged")


class AblationError(RuntimeError):
    """The ablation cannot be completed; the message says which run, why, and what to do."""


@dataclass(frozen=True)
class RowSpec:
    """A row that is planned.

    Attributes:
        label: its name in the table and in the names of its runs.
        config: preset or path of a YAML file.
        flags: flags of `learner.main` for its runs alone, after those of all runs.
    """

    label: str
    config: str
    flags: tuple[str, ...] = ()


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
    def path(self) -> Path:
        """The run's folder."""
        return self.folder / self.name


@dataclass(frozen=True)
class Finished:
    """The result of a finished run.

    Attributes:
        outcome: what its editor is worth.
        base: held-out means per metric before training; empty where the run diverged.
        gain: means of trained - base per metric, over the tasks that both editors have an image of; empty where there
            are none.
        training_seconds: wall time of all its optimizer steps; None where it is not known: a continued run knows those
            since it was continued.
        data: fingerprints of the tasks by name.
    """

    outcome: Outcome
    base: Mapping[str, float]
    gain: Mapping[str, float]
    training_seconds: float | None
    data: Mapping[str, str]

    @property
    def final(self) -> dict[str, float]:
        """The base's means and what was gained on the tasks that both editors have an image of: a run that makes none
        of its worst tasks must not win by their absence."""
        return {name: value + self.gain[name] for name, value in self.base.items() if name in self.gain}


def unusable(outcomes: Sequence[Outcome]) -> str:
    """The runs without a usable editor, such as `ruined 1 of 5, diverged 2 of 5`; empty if there are none."""
    return ", ".join(
        f"{outcome} {outcomes.count(outcome)} of {len(outcomes)}" for outcome in UNUSABLE if outcome in outcomes
    )


def plan(rows: Sequence[str | RowSpec], seeds: Sequence[int], folder: Path, overrides: Sequence[str]) -> list[Run]:
    """Every run that the table needs, seed by seed, so that an interrupted ablation has complete columns.

    Args:
        rows: presets, paths of YAML files, or either with flags of its own.
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
            raise AblationError(
                f"{flag}: the ablation sets this for every run; leave it out (known: --rows, --seeds, "
                "--out, --jobs, and flags of single settings such as --learner.steps 20)."
            )
    specs = [row if isinstance(row, RowSpec) else RowSpec(Path(row).stem, row) for row in rows]
    for what, values in (("--rows", [spec.label for spec in specs]), ("--seeds", list(seeds))):
        if len(set(values)) != len(values):
            raise AblationError(f"{what}: expected each value once, got {' '.join(map(str, values))}.")
    runs = []
    for seed in seeds:
        for spec in specs:
            name = f"{spec.label}-seed{seed}"
            of_run = ("--config", spec.config, "--seed", str(seed), "--name", name, "--folder", str(folder))
            arguments = (*of_run, *overrides, *spec.flags)
            runs.append(Run(spec.label, seed, name, folder, config_hash(load_config(arguments)), arguments))
    return runs


def check_writable(folder: Path, flag: str) -> None:
    """Create the folder and a file in it, so that hours of runs do not end with a table that cannot be saved.

    Raises:
        AblationError: naming the flag.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AblationError(
            f"{flag}: {folder} cannot be written ({error.strerror or error}); name another folder."
        ) from error


def read_finished(run: Run) -> Finished | None:
    """The result of an existing run; None if it has not finished.

    Raises:
        AblationError: when the folder holds a run of another configuration or of other code.
    """
    summary_file = run.path / "summary.json"
    if not summary_file.is_file():
        return _read_diverged(run)
    summary: Mapping[str, Any] = json.loads(summary_file.read_text(encoding="utf-8"))
    _refuse_another_run(run, summary)
    seconds = float(summary["seconds"]["step"]) if summary["first_step"] == 0 else None
    return Finished(
        summary["verdict"]["outcome"], summary["base"]["mean"], summary["gain"]["mean"], seconds, summary["data"]
    )


def _read_diverged(run: Run) -> Finished | None:
    """The result from the event log: a run that diverged leaves no summary."""
    try:
        events = list(read_events(run.path / EVENTS))
    except EventError as error:
        raise AblationError(str(error)) from error
    if not events or (events[-1]["event"], events[-1].get("error")) != ("failed", "Diverged"):
        return None
    kinds = {event["event"] for event in events}
    if "rolled_back" not in kinds and any(run.path.glob("checkpoints/step_*")):
        return None  # killed before it could go back, which it does once
    began = next(event for event in reversed(events) if event["event"] in ("started", "resumed"))
    _refuse_another_run(run, began)
    return Finished("diverged", {}, {}, None, began["data"])


def _refuse_another_run(run: Run, found: Mapping[str, Any]) -> None:
    what_to_do = "choose another --out or delete that folder."
    if found["config_hash"] != run.config_hash:
        raise AblationError(
            f"{run.path} holds a run of another configuration: expected {run.config_hash[:12]}, got "
            f"{found['config_hash'][:12]}; {what_to_do}"
        )
    code = found.get("code", {})  # summaries of earlier code lack it
    present = code_fingerprint(load_config(run.arguments).own_modules)
    changed = [name for name in present if code.get(name) != present[name]]
    if changed:
        raise AblationError(
            f"{run.path} holds a run of other code: the code has changed since ({', '.join(changed)}), and only runs "
            f"of the same code are comparable; {what_to_do}"
        )


def _refuse_differing_data(runs: Sequence[Run], done: Mapping[str, Finished]) -> None:
    """Check that the runs of a row used the same data: files may have changed between them."""
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.row, run)
        if done[run.name].data != done[other.name].data:
            raise AblationError(
                f"{other.path} and {run.path} are runs on different data: files that data names changed between them. "
                "Choose another --out or delete the folder of the run that is not to count."
            )


def execute(run: Run, runner: Runner, stop: threading.Event) -> Finished:
    """Execute a run, or resume an interrupted one, and return its result.

    Raises:
        AblationError: when it fails; the message ends with the end of its log.
    """
    command = [sys.executable, "-m", "learner.main", *run.arguments]
    if (run.path / "config.yaml").is_file():
        command.append("--resume")
    log = run.folder / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = runner(command, log, stop)
    finished = read_finished(run)
    if (
        status in (exits.DONE, exits.UNUSABLE) and finished is not None
    ):  # a control row may legitimately ruin its editor
        return finished
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
    why = f"ended with status {status}" if status else "ended without a summary.json"
    raise AblationError("\n".join([f"Run {run.name} {why}. The end of {log}:", *tail]))


def run_process(command: Sequence[str], log: Path, stop: threading.Event) -> int:
    """Run a command with its output appended to the log, terminate it if `stop` is set, and return its exit status."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            while (status := process.poll()) is None:
                if stop.wait(POLL_SECONDS):
                    process.terminate()
                    return process.wait()
            return status


def collect(runs: Sequence[Run], jobs: int, runner: Runner, say: Callable[[str], None]) -> dict[str, Finished]:
    """The results of all runs by name, executing the missing ones, `jobs` at a time.

    Raises:
        AblationError: of a run that failed; those that have not started by then do not start. Also when runs of a row
            had different data.
    """
    done = {run.name: finished for run in runs if (finished := read_finished(run)) is not None}
    missing = [run for run in runs if run.name not in done]
    say(f"{len(runs)} runs: {len(done)} already finished, {len(missing)} to do, {jobs} at a time")

    failed, stop = threading.Event(), threading.Event()

    def one(run: Run) -> tuple[str, Finished] | None:
        if failed.is_set():
            return None
        try:
            finished = execute(run, runner, stop)
        except BaseException:
            failed.set()
            raise
        took = "" if finished.training_seconds is None else f" after {finished.training_seconds:.0f} s of training"
        say(f"{run.name}: finished{took}" + (f", {finished.outcome}" if finished.outcome in UNUSABLE else ""))
        return run.name, finished

    with ThreadPoolExecutor(jobs) as pool:
        try:  # runs start as soon as they are submitted
            futures = [pool.submit(one, run) for run in missing]
            # In turns: a signal that the system hands to another thread of this process does not end a wait.
            while wait(futures, POLL_SECONDS).not_done:
                pass
        except KeyboardInterrupt:
            failed.set()
            stop.set()
            raise
    # All have ended here, and `result` re-raises their exceptions.
    done.update(pair for future in futures if (pair := future.result()) is not None)
    _refuse_differing_data(runs, done)
    return done


class Ended(Exception):
    """The runs did not finish, which has been reported; `status` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def runs_ended_in_words(console: Console) -> Iterator[None]:
    """A context that reports why runs failed or were stopped, and then raises Ended."""
    # A SIGTERM to this process is meant for its runs too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (AblationError, ConfigError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise Ended(1) from error
    except KeyboardInterrupt as stopped:
        console.print("Stopped. Finished runs are kept; the same command continues from here.")
        raise Ended(130) from stopped
    finally:
        signal.signal(signal.SIGTERM, before)
