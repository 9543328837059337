"""Overhead of the distributed runtime relative to the work itself: `python -m evaluation.speed runtime`.

Most rows are measured with workers and a learner that sleep (`evaluation.speed.simulated`,
`evaluation.speed.simulated_ray`), so that they tell what the runtime adds, whatever the machine computes. Rows that say
so are of real training runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import RunConfig
from evaluation.speed.core import LOOP_STEPS, loop_run
from evaluation.speed.simulated import SimulatedBackend, Work, simulated_config
from evaluation.speed.table import ratio
from evaluation.speed.timing import Clock, Measured
from learner.backends.base import Backend
from learner.loop import publish, train
from learner.reporting.records import EvaluationRecord, GroupRecord, RunRecord, StepRecord
from learner.reporting.reporter import Reporter
from learner.scheduling.active_run import ActiveRun, Progress
from learner.state.event_log import EventLog

FLEETS = (1, 4, 16, 64, 256)
"""Numbers of simulated workers."""
GROUPS = 256
"""Groups per step in the rows about fleets: enough to keep the largest fleet busy."""
RATE = 40.0
"""Groups per second that a fleet of any size delivers."""
WORKERS, STEP_GROUPS = 4, 12
BALANCED = Work(rollout=0.4, group=0.09, update=0.12)
"""Rollout and learner take 1.2 s per step each, where overlapping is hardest: any wait shows."""
AT_THE_END = Work(rollout=0.4, group=0.0, update=1.2)
"""The same work for a learner that computes all gradients in update(), as with rewards normalised over a step."""
WARM = 3
"""Warm-up steps at the beginning of a run."""
CONSTANT = 1.5
"""The cost per group counts as constant if it grows by at most this factor from one worker to any number."""


@dataclass
class StepTimer:
    """Records the time at the end of every step."""

    clock: Clock
    times: list[float] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)

    def on_start(self, record: RunRecord) -> None: ...
    def on_notice(self, sentence: str) -> None: ...
    def on_group(self, record: GroupRecord) -> None: ...
    def on_evaluation(self, record: EvaluationRecord) -> None: ...
    def on_end(self, summary: Mapping[str, Any]) -> None: ...

    def on_step(self, record: StepRecord) -> None:
        self.times.append(self.clock())
        self.records.append(record)

    def steps(self) -> list[float]:
        """Seconds of every step but the first."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def run_loop(config: RunConfig, backend: Backend, folder: Path, timer: StepTimer) -> None:
    """The real loop over a backend, with a run's event log and no held-out tasks."""
    with EventLog(folder / "events.jsonl") as events:
        backend.start(0)
        try:
            run = ActiveRun(config, backend, Reporter(events, [timer]), 4096, 0, Progress(0, None))
            publish(run)
            train(run)
        finally:
            backend.close()


def shaped(config: RunConfig, workers: int, steps: int, groups: int, staleness: int) -> RunConfig:
    """The configuration of a simulated run."""
    config = simulated_config(config, rollout_workers=workers, staleness=staleness, mode="ray", address=None)
    return config.model_copy(
        update={"learner": config.learner.model_copy(update={"steps": steps, "groups_per_step": groups})}
    )


def measure_coordinator(config: RunConfig, repetitions: int) -> list[Measured]:
    """CPU time per group of loop, collector, lease accounting and event log, by fleet size; nothing sleeps."""
    seconds: dict[int, list[float]] = {workers: [] for workers in FLEETS}
    with tempfile.TemporaryDirectory(prefix="locus-speed-") as folder:
        for repetition in range(repetitions):
            for workers in FLEETS:
                place = Path(folder) / f"{workers}-{repetition}"
                place.mkdir()
                shape = shaped(config, workers, 3, GROUPS, 1)
                backend = SimulatedBackend(shape, Work())
                timer = StepTimer(lambda backend=backend: time.process_time() - backend.seconds)  # type: ignore[misc]
                run_loop(shape, backend, place, timer)
                seconds[workers].append(sum(timer.steps()) / (2 * GROUPS))
    return by_fleet("coordinator per group, in process", seconds)


def by_fleet(name: str, seconds: Mapping[int, Sequence[float]]) -> list[Measured]:
    """One row per larger fleet, relative to the smallest."""
    first, *others = seconds
    return [
        ratio(f"{name}: {workers} workers / {first}", seconds[workers], seconds[first], CONSTANT) for workers in others
    ]


def measure_messages(config: RunConfig) -> list[Measured]:
    """CPU time of the driver per group on real Ray, by fleet size; all fleets deliver `RATE` groups/s."""
    from evaluation.speed.simulated_ray import SimulatedRayBackend

    seconds: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="locus-speed-") as folder:
        for workers in FLEETS:
            place = Path(folder) / str(workers)
            place.mkdir()
            shape = shaped(config, workers, 3, GROUPS, 1)
            work = Work(rollout=workers / RATE, jitter=0.5)
            backend = SimulatedRayBackend(shape, place, work, adapter_arrays(1000), tokens=4)
            timer = StepTimer(time.process_time)
            run_loop(shape, backend, place, timer)
            seconds[workers] = [spent / GROUPS for spent in timer.steps()]
    return by_fleet("driver on Ray per group", seconds)


def adapter_arrays(values: int) -> dict[str, np.ndarray]:
    """Arrays of an adapter with about this many values."""
    return {"lora": np.zeros(values, np.float32)}


def alone(work: Work) -> float:
    """Seconds of a step without waiting: the longer of the workers' and the learner's sleep."""
    return max(STEP_GROUPS * work.rollout / WORKERS, STEP_GROUPS * work.group + work.update)


def measure_overlap(config: RunConfig, steps: int) -> list[Measured]:
    """Steps of an asynchronous run relative to rollout or learner alone, and to the same work in sequence.

    What is slept alone is known, so that the ratio holds all that the runtime adds, messages included.
    """
    rows = []
    for work, when in ((BALANCED, ""), (AT_THE_END, ", gradients in update()")):
        turns, _ = overlapped(config, work, 0, steps)
        for staleness in (1, 2):
            found, busy = overlapped(config, work, staleness, steps)
            name = f"{WORKERS} sleeping workers on Ray, staleness {staleness}{when}"
            rows += [
                ratio(f"{name}: step / longer of rollout and learner alone", found, [alone(work)] * steps, 1.10),
                ratio(f"{name}: step / step at staleness 0", found, turns),
                ratio(
                    f"{name}: learner idle / step",
                    [step - at_work for step, at_work in zip(found, busy, strict=True)],
                    found,
                ),
            ]
    return rows


def overlapped(config: RunConfig, work: Work, staleness: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each of `steps` steps in the middle of a run, and of the learner's work in each."""
    from evaluation.speed.simulated_ray import SimulatedRayBackend

    with tempfile.TemporaryDirectory(prefix="locus-speed-") as folder:
        # The last steps of a run have no rollouts ahead.
        shape = shaped(config, WORKERS, WARM + steps + staleness, STEP_GROUPS, staleness)
        backend = SimulatedRayBackend(shape, Path(folder), work, adapter_arrays(34_000), tokens=64)
        timer = StepTimer(time.monotonic)
        run_loop(shape, backend, Path(folder), timer)
    middle = slice(WARM, WARM + steps)
    return timer.steps()[WARM - 1 :][:steps], [one.learner["accumulate_seconds"] for one in timer.records[middle]]


def measure_training(flags: Sequence[str], pairs: int, cores: int) -> list[Measured]:
    """Real runs on Ray, asynchronous relative to synchronous, on cores shared by rollout and learner."""
    steps: dict[int, list[float]] = {0: [], 1: []}
    idle: list[float] = []
    with tempfile.TemporaryDirectory(prefix="locus-speed-") as folder:
        for pair in range(pairs):
            for staleness, found in steps.items():
                metrics = loop_run(
                    folder,
                    f"{staleness}-{pair}",
                    [
                        *flags,
                        "--cluster.mode",
                        "ray",
                        "--cluster.staleness",
                        str(staleness),
                        "--cluster.rollout_workers",
                        str(max(1, cores - 1)),
                        "--learner.steps",
                        str(LOOP_STEPS),
                        "--data.held_out_tasks",
                        "0",
                        "--report.gallery_groups",
                        "0",
                        "--report.gallery_tasks",
                        "0",
                    ],
                )
                for step, busy in step_and_busy(metrics)[1:]:
                    found.append(step)
                    if staleness:
                        idle.append(step - busy)
    name = f"training run, learner and {max(1, cores - 1)} worker(s) on {cores} cores"
    return [
        ratio(f"{name}: step at staleness 1 / 0", steps[1], steps[0]),
        ratio(f"{name}, staleness 1: learner idle / step", idle, steps[1]),
    ]


def step_and_busy(metrics: Path) -> list[tuple[float, float]]:
    """Wall seconds of every step without its checkpoint, and the learner's working time in it."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    phases = ("accumulate", "old_leaps", "optimizer", "spool")
    return [
        (
            line["system/seconds_step"] - line.get("system/seconds_checkpoint", 0.0),
            sum(line.get(f"learner/{phase}_seconds", 0.0) for phase in phases),
        )
        for line in lines
        if line["kind"] == "step"
    ]


def measure(
    config: RunConfig, flags: Sequence[str], pairs: int, repetitions: int, cores: int
) -> tuple[list[Measured], str]:
    """All rows and their clocks; real training runs only for `pairs` above 0.

    Everything on Ray shares one local cluster, but publishing and real runs, which start their own.
    """
    from cluster.runtime import connect
    from evaluation.speed.publish import measure_publish

    rows = measure_coordinator(config, repetitions)
    with connect(shaped(config, 2, 1, 1, 0).cluster):
        rows += measure_messages(config)
        rows += measure_overlap(config, repetitions)
    rows += measure_publish(repetitions)
    if pairs:
        rows += measure_training(flags, pairs, cores)
    return rows, "CPU seconds of the driver per group; wall seconds of steps and of publishing"
