"""What each method costs beside RC-GRPO, at equal group size: `python -m evaluation.speed methods`.

The seconds of a rollout and of the learner's work on a group, the update with its optimizer included, and the bytes of
the message between them. All methods share one editor and are measured in turns, so that a drift of the machine meets
all alike.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np
import torch

from actors.rollout import roll_out
from configs.algorithms import AlgorithmConfig
from configs.errors import ConfigError
from configs.load import config_hash, load_config
from configs.method_families import LikelihoodMethod, RolloutMethod
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.editors.base import Editor
from editing.editors.policy import open_policy
from editing.trajectory import TrajectoryGroup
from evaluation.speed.core import at_step
from evaluation.speed.table import ratio
from evaluation.speed.timing import Clock, Measured, clock_for, interleaved, timed
from learner.algorithms.preservation_unit import GROUPS
from learner.scheduling.sampler import LeaseSampler
from learner.update.learner import Learner
from rewards.pool import RewardPool, at_once

REFERENCE = "rc_grpo"
STILL = 1e-12
"""A learning rate so small that the weights stay those of the rollouts, which the learner checks on every group."""


@dataclass(frozen=True)
class MethodCost:
    """Seconds of every repetition, per group, and the bytes of a group."""

    rollout: Sequence[float]
    update: Sequence[float]
    nbytes: int

    @property
    def rollout_seconds(self) -> float:
        """The median."""
        return float(np.median(self.rollout))

    @property
    def update_seconds(self) -> float:
        """The median."""
        return float(np.median(self.update))


def method_types() -> tuple[str, ...]:
    """Every `algorithm.type` that learns from rollouts, but `custom`; the reference first."""
    members = [member for member in get_args(get_args(AlgorithmConfig)[0]) if issubclass(member, RolloutMethod)]
    names = [member.model_fields["type"].default for member in members]
    return (REFERENCE, *(name for name in names if name not in (REFERENCE, "custom")))


def method_configs(flags: Sequence[str]) -> tuple[dict[str, RunConfig], list[str]]:
    """The flags' configuration under every method, and a sentence for each method that it does not fit.

    Raises:
        ConfigError: when it is wrong for the reference.
    """
    found, left_out = {}, []
    for name in method_types():
        try:
            found[name] = load_config([*flags, "--algorithm.type", name])
        except ConfigError as error:
            if name == REFERENCE:
                raise
            left_out.append(f"{name} was not measured: {error}")
    return found, left_out


def message_bytes(group: TrajectoryGroup) -> int:
    """Size of the arrays of a trajectory group."""
    values = (getattr(group, field.name) for field in fields(group))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def measure_costs(
    configs: Mapping[str, RunConfig], repetitions: int
) -> tuple[dict[str, MethodCost], str, torch.device]:
    """The cost of every configuration by name, the name of the clock, and the device.

    Editor, data and seed are those of the first; rewards, sampler and method are each one's own. Rollouts are of leases
    that are spread over the run's steps: what a method does may change with the step.
    """
    first = next(iter(configs.values()))
    torch.set_num_threads(first.cluster.threads_per_process)
    editor, tasks = open_policy(first.editor, first.seed), open_tasks(first)
    clock, clock_name = clock_for(editor.device, first.cluster.threads_per_process)
    benches = {name: MethodBench(config, editor, tasks, clock) for name, config in configs.items()}
    measures = [measure for bench in benches.values() for measure in (bench.rollout, bench.update)]
    with tempfile.TemporaryDirectory() as folder:
        for name, bench in benches.items():
            bench.open(f"{folder}/{name}", repetitions)
        seconds = interleaved(measures, repetitions)
    costs = {
        name: MethodCost(seconds[2 * place], seconds[2 * place + 1], message_bytes(bench.groups[0]))
        for place, (name, bench) in enumerate(benches.items())
    }
    return costs, clock_name, editor.device


class MethodBench:
    """One configuration to be timed, on an editor that it shares."""

    def __init__(self, config: RunConfig, editor: Editor, tasks: Tasks, clock: Clock) -> None:
        self.config, self.editor, self.tasks, self.clock = config, editor, tasks, clock
        self.groups: list[TrajectoryGroup] = []
        self._rolled_out = 0

    def open(self, folder: str, repetitions: int) -> None:
        """Roll out a step's groups, score them, and open a learner in the folder, past the first groups of a run, which
        it takes twice (`learner.algorithms.preservation_unit`)."""
        config, size = self._still(repetitions), self.config.learner.groups_per_step
        digest, pool = config_hash(config), RewardPool(config.rewards, self.tasks)
        leases = LeaseSampler(config.seed, len(self.tasks.train), size).leases(0, 0)
        self.groups = [
            roll_out(self.editor, self.tasks.train[lease.task_index], lease, config, digest) for lease in leases
        ]
        self._scores = [at_once(pool.score(group)) for group in self.groups]
        self._learner = Learner(config, self.editor, self.tasks, folder)
        for _ in range(settling(size)):
            self._step()
        # Of one task: its text and image are encoded once, as for every group after its first.
        steps, count = self.config.learner.steps, repetitions + 1
        self._leases = [replace(leases[0], step=turn * steps // count) for turn in range(count)]

    def _still(self, repetitions: int) -> RunConfig:
        """The configuration of a learner that may be given the same groups again and again: its weights stay, and so
        does a window of noisy steps."""
        learner, method = self.config.learner, self.config.algorithm
        optimizer = learner.optimizer.model_copy(update={"lr": STILL, "warmup_steps": 0})
        steps = repetitions + 1 + settling(learner.groups_per_step)
        if isinstance(method, LikelihoodMethod):
            method = method.model_copy(update={"window_every": 0})
        more = {"optimizer": optimizer, "steps": steps}
        return self.config.model_copy(update={"learner": learner.model_copy(update=more), "algorithm": method})

    def rollout(self) -> float:
        """Seconds of the next rollout."""
        lease = self._leases[self._rolled_out % len(self._leases)]
        self._rolled_out += 1
        task = self.tasks.train[lease.task_index]
        return timed(lambda: roll_out(self.editor, task, lease, self.config, "of no run"), self.clock)()

    def update(self) -> float:
        """Seconds of a step of the learner, per group.

        Raises:
            RuntimeError: when the learner rejects a group.
        """
        return timed(self._step, self.clock)() / len(self.groups)

    def _step(self) -> None:
        for group, scores in zip(self.groups, self._scores, strict=True):
            report = self._learner.consume(*at_step(group, scores, self._learner.version))
            if not report.accepted:
                raise RuntimeError(f"the learner rejected a group of the benchmark: {report.reason}")
        self._learner.update()


def settling(groups_per_step: int) -> int:
    """Steps of a run after which the unit of the preservation weights is known, if its groups tell it."""
    return math.ceil(GROUPS / groups_per_step)


@dataclass(frozen=True)
class MethodTable:
    """The rows of the table; the clock and the device; the bytes of a group by method; a sentence for each method that
    was left out."""

    rows: list[Measured]
    clock: str
    device: torch.device
    nbytes: dict[str, int]
    left_out: list[str]


def measure(flags: Sequence[str], repetitions: int) -> MethodTable:
    """Every method under the flags, beside the reference."""
    configs, left_out = method_configs(flags)
    costs, clock, device = measure_costs(configs, repetitions)
    reference = costs[REFERENCE]
    rows = []
    for name, cost in costs.items():
        if name != REFERENCE:
            rows.append(ratio(f"rollout of a group, {name} / {REFERENCE}", cost.rollout, reference.rollout))
            rows.append(ratio(f"update per group, {name} / {REFERENCE}", cost.update, reference.update))
    rows.append(ratio(f"update per group / rollout of a group, {REFERENCE}", reference.update, reference.rollout))
    return MethodTable(rows, clock, device, {name: cost.nbytes for name, cost in costs.items()}, left_out)
