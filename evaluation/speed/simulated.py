"""Workers, judges and a learner that sleep instead of computing, behind `Backend`, in one process.

Real: the loop, the collector, the lease accounting, the event log. Simulated: everything below the backend. A worker
does its leases and new weights one after the other, as a process would; the learner takes groups one after the other.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import config_hash
from configs.schema import RunConfig
from editing.task import Image
from editing.trajectory import Generated, Lease
from editing.weights import WeightProof
from learner.backends.base import Delivered, Exported, HeldOut, Lost, Taken, Unsaved
from learner.update.step_report import StepReport, StepTotals
from rewards.result import GroupScores, Score

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Work:
    """Simulated durations in seconds: per rollout of a group, per group in the learner, per optimizer step.

    With `jitter` a rollout takes between (1 - jitter) and (1 + jitter) times as long, by its seed, so that a fleet that
    begins together does not end together.
    """

    rollout: float = 0.0
    group: float = 0.0
    update: float = 0.0
    jitter: float = 0.0

    def rollout_of(self, lease: Lease) -> float:
        """Seconds of this lease's rollout."""
        return self.rollout * (1 + self.jitter * (2 * (lease.seed % 1000) / 999 - 1))


def scores_of(lease: Lease, size: int) -> GroupScores:
    """Scores that vary within the group, so that it has advantages."""
    values = tuple(Score(value=20.0 + place) for place in range(size))
    return GroupScores(lease.group_id, lease.policy_version, {"background_psnr": values}, 0.0)


def simulated_config(config: RunConfig, **cluster: Any) -> RunConfig:
    """The configuration with the simulation's only reward, and other settings of the cluster."""
    return config.model_copy(
        update={
            "rewards": config.rewards.model_copy(update={"weights": {"background_psnr": 1.0}}),
            "cluster": config.cluster.model_copy(update=cluster),
            "report": config.report.model_copy(update={"gallery_groups": 0, "gallery_tasks": 0, "evaluate_every": 0}),
        }
    )


@dataclass
class SimulatedBackend:
    """`clock` and `sleep` are those of the machine, unless a test has its own.

    `seconds` adds up the CPU time that is spent in here, so that it can be taken off the whole.
    """

    config: RunConfig
    work: Work
    clock: Callable[[], float] = time.monotonic
    sleep: Sleep = time.sleep
    version: int = 0
    seconds: float = 0.0
    _free: list[float] = field(default_factory=list)
    _jobs: list[int] = field(default_factory=list)
    _proved: list[float] = field(default_factory=list)
    _out: list[tuple[float, int, int, Lease]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _handed: deque[Taken] = field(default_factory=deque)
    _learner_free: float = 0.0
    _steps: int = 0

    def __post_init__(self) -> None:
        workers, now = self.config.cluster.rollout_workers, self.clock()
        self._free, self._jobs, self._proved = [now] * workers, [0] * workers, [now] * workers
        self._hash, self._size = config_hash(self.config), self.config.sampler.group_size

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        self.version = self._steps = step

    @contextmanager
    def _inside(self) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start

    def publish(self) -> WeightProof:
        with self._inside():
            self.version = self._steps
            # New weights queue behind a worker's jobs.
            self._proved = [max(self.clock(), free) for free in self._free]
            return WeightProof(self.version, "0" * 64, 1)

    def capacity(self) -> int:
        with self._inside():
            now, limit = self.clock(), self.config.cluster.groups_in_flight
            return sum(
                max(0, limit - jobs) for jobs, proved in zip(self._jobs, self._proved, strict=True) if proved <= now
            )

    def submit(self, lease: Lease) -> None:
        with self._inside():
            now = self.clock()
            worker = min((w for w, proved in enumerate(self._proved) if proved <= now), key=self._jobs.__getitem__)
            self._free[worker] = max(self._free[worker], now) + self.work.rollout_of(lease)
            self._jobs[worker] += 1
            heapq.heappush(self._out, (self._free[worker], next(self._numbers), worker, lease))

    def next_delivery(self, timeout: float) -> Delivered | Taken | Lost | None:
        with self._inside():
            if self._handed:
                return self._handed.popleft()
            now = self.clock()
            changes = [proved for proved in self._proved if proved > now] + [self._out[0][0]] * bool(self._out)
            wait = min(changes, default=now + timeout) - now
            if wait > 0:
                self.sleep(min(wait, timeout))
            if not self._out or self._out[0][0] > self.clock():
                return None
            _, _, worker, lease = heapq.heappop(self._out)
            self._jobs[worker] -= 1
            made = Generated(lease, "task", lease.policy_version, self._hash, self.work.rollout, pid=worker + 1)
            return Delivered(made, scores_of(lease, self._size), handle=None)

    def pool_statistics(self) -> Mapping[str, float]:
        return {}

    def consume(self, delivered: Delivered) -> None:
        with self._inside():
            self._learner_free = max(self._learner_free, self.clock()) + self.work.group
            self._handed.append(Taken(delivered.lease))

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        with self._inside():
            self._learner_free = max(self._learner_free, self.clock()) + self.work.update
            self.sleep(max(0.0, self._learner_free - self.clock()))
            self._steps += 1
            return StepReport(self._steps, True, 0, StepTotals())

    def images(self, delivered: Delivered) -> Image:
        return np.zeros((self._size, 1, 1, 3), np.uint8)

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        return HeldOut([], ())

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        return Path(f"step_{self._steps}")

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        return Exported(folder, 0.1)

    def close(self) -> None:
        pass
