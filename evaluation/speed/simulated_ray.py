"""Workers, pool and learner that sleep, on real Ray: real messages, objects, fleet and backend.

All simulated workers live in one process, an asynchronous actor that holds a line of work for each of them; the pool
and the learner are processes of their own. So the driver sees as many workers as wanted, and sends and receives every
message that it would, while the machine holds three processes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.fleet import Fleet
from actors.slots import Worker
from actors.worker import Receipt, WrongVersion
from configs.load import config_hash
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.rollout_spec import rollout_spec
from editing.trajectory import Generated, Lease, TrajectoryGroup
from editing.weights import WeightProof, WeightVersion, fingerprint
from evaluation.speed.simulated import Work, scores_of
from learner.backends.learner_group import LearnerGroup
from learner.backends.ray import RayBackend
from learner.update.step_report import StepReport, StepTotals
from locus.common.ray_coroutines import Coroutines
from rewards.result import GroupScores

CONCURRENCY = 2048
OPTIONS = {
    "num_cpus": 0,
    "max_restarts": 0,
    "max_task_retries": 0,
    "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}},
}


def group_of(lease: Lease, config: RunConfig, digest: str, tokens: int) -> TrajectoryGroup:
    """A group of the configured counts, full of zeros: `tokens` tokens of 64 channels, small images."""
    spec = rollout_spec(config, lease)
    size, steps, anchors = spec.group_size, spec.kept, np.array(spec.anchors)
    return TrajectoryGroup(
        lease,
        "task",
        lease.policy_version,
        digest,
        "",
        np.zeros(config.sampler.steps + 1, np.float32),
        steps,
        anchors,
        np.zeros((len(steps), size, tokens, 64), np.float32),
        np.zeros((len(steps), len(anchors), tokens, 64), np.float32),
        np.zeros((size, 8, 8, 3), np.uint8),
        None,
        0.0,
    )


class Carrier:
    """Many simulated workers; each works sequentially."""

    def __init__(self, config: RunConfig, work: Work, tokens: int) -> None:
        self._config, self._work, self._tokens, self._hash = config, work, tokens, config_hash(config)
        self._lines: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._versions: dict[int, int] = {}

    async def set_weights(self, worker: int, weights: WeightVersion) -> Receipt:
        """Prove receipt of the arrays; there is no module to copy them to."""
        async with self._lines[worker]:
            self._versions[worker] = weights.version
            proof = WeightProof(weights.version, fingerprint(weights.arrays), weights.modules)
            return Receipt(proof, os.getpid() * 10_000 + worker)

    async def roll_out(self, worker: int, lease: Lease) -> tuple[Generated, TrajectoryGroup]:
        """Sleep for the duration of a rollout."""
        async with self._lines[worker]:
            if self._versions.get(worker) != lease.policy_version:
                raise WrongVersion(f"simulated worker {worker} holds {self._versions.get(worker)}")
            await asyncio.sleep(self._work.rollout_of(lease))
        made = Generated(lease, "task", lease.policy_version, self._hash, self._work.rollout, os.getpid())
        return made, group_of(lease, self._config, self._hash, self._tokens)


class SimulatedPool:
    """Scores immediately."""

    async def score(self, group: TrajectoryGroup) -> GroupScores:
        return scores_of(group.lease, group.group_size)


class SimulatedLearner:
    """Sleeps for every group and every step; handles one call at a time, like the real one."""

    def __init__(self, work: Work, arrays: Mapping[str, Any]) -> None:
        self._work, self._arrays, self._version, self._busy = work, dict(arrays), 0, 0.0

    def start(self, step: int, allowed: Sequence[str]) -> None:
        self._version = step

    def consume(self, group: TrajectoryGroup, scores: GroupScores) -> None:
        self._spend(self._work.group)

    def update(self) -> StepReport:
        self._spend(self._work.update)
        self._version += 1
        busy, self._busy = self._busy, 0.0
        return StepReport(self._version, True, 0, StepTotals(seconds={"accumulate": busy}))

    def publish(self, measured: bool = False) -> tuple[WeightProof, WeightVersion]:
        del measured  # always the same weights
        weights = WeightVersion(self._version, self._arrays, fingerprint(self._arrays), 1)
        return weights.proof, weights

    def save(self, extra: Mapping[str, Any]) -> Path:
        return Path(f"step_{self._version}")

    def _spend(self, seconds: float) -> None:
        start = time.monotonic()
        time.sleep(seconds)
        self._busy += time.monotonic() - start


class _Method:
    """A method of one simulated worker, with the calling convention of an actor's."""

    def __init__(self, method: Any, worker: int) -> None:
        self._method, self._worker = method, worker

    def options(self, **options: Any) -> _Method:
        return _Method(self._method.options(**options), self._worker)

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._worker, *arguments)


class _Handle:
    """The fleet's view of one simulated worker."""

    def __init__(self, carrier: Any, worker: int) -> None:
        self.set_weights = _Method(carrier.set_weights, worker)
        self.roll_out = _Method(carrier.roll_out, worker)


class SimulatedFleet(Fleet):
    """The real fleet, with workers that all live in one process."""

    def __init__(self, config: RunConfig, carrier: Any, coroutines: Coroutines, notify: Callable[..., None]) -> None:
        self._carrier = carrier
        super().__init__(config, OPTIONS, coroutines, notify)

    def _start_due(self) -> None:
        for slot in self.slots.due(time.monotonic()):
            slot.worker = Worker(_Handle(self._carrier, slot.number), since=time.monotonic())
            if self._sent is not None:
                self._send_weights(slot.worker)

    def close(self) -> None:
        """Kill the workers' process."""
        ray.kill(self._carrier, no_restart=True)


class SimulatedRayBackend(RayBackend):
    """The real backend with sleeping processes."""

    def __init__(self, config: RunConfig, folder: Path, work: Work, arrays: Mapping[str, Any], tokens: int) -> None:
        super().__init__(config, folder, lambda event, **fields: None, open_tasks(config))
        self._work, self._arrays, self._tokens = work, arrays, tokens

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        def process(kind: type, *arguments: Any, **options: Any) -> Any:
            return ray.remote(kind).options(**OPTIONS, **options).remote(*arguments)

        self._learner = learner = LearnerGroup(self._config, [process(SimulatedLearner, self._work, self._arrays)])
        self._pool = process(SimulatedPool, max_concurrency=CONCURRENCY)
        carrier = process(Carrier, self._config, self._work, self._tokens, max_concurrency=CONCURRENCY)
        self._fleet = SimulatedFleet(self._config, carrier, self._coroutines, self._notify)
        learner.start(step, allowed)
