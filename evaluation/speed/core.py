"""Overhead of the method relative to the model it runs: `python -m evaluation.speed core`.

Settings are those of the quickstart; flags change them (--editor.path FOLDER).
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from actors.rollout import roll_out
from actors.worker import RolloutWorker
from configs.load import config_hash
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.editors.base import Editor
from editing.editors.lora import detach_lora
from editing.editors.policy import open_policy
from editing.trajectory import TrajectoryGroup
from evaluation.speed.table import ratio
from evaluation.speed.timing import (
    Clock,
    Measured,
    clock_for,
    interleaved,
    recorded_calls,
    timed,
    timed_decoding,
)
from learner.scheduling.sampler import LeaseSampler
from learner.update.learner import Learner
from rewards.pool import RewardPool, at_once
from rewards.result import GroupScores

ACD_WEIGHT = 0.3
LOOP_STEPS = 4
"""Steps of a loop run; the first is left out."""


@dataclass(frozen=True)
class Bench:
    """The objects to time: a policy (with adapter), the same editor without one, its tasks."""

    config: RunConfig
    policy: Editor
    plain: Editor
    tasks: Tasks
    clock: Clock


def open_bench(config: RunConfig) -> tuple[Bench, str]:
    """The bench of a configuration and its clock's name."""
    torch.set_num_threads(config.cluster.threads_per_process)
    policy, plain = open_policy(config.editor, config.seed), open_policy(config.editor, config.seed)
    detach_lora(plain.transformer)
    clock, name = clock_for(policy.device, config.cluster.threads_per_process)
    return Bench(config, policy, plain, open_tasks(config), clock), name


def with_acd(config: RunConfig) -> RunConfig:
    """The configuration with attention concentration as an additional reward."""
    weights = {**config.rewards.weights, "acd": ACD_WEIGHT}
    return config.model_copy(update={"rewards": config.rewards.model_copy(update={"weights": weights})})


def measure_rollout(bench: Bench, repetitions: int) -> list[Measured]:
    """A rollout relative to the transformer forward passes it contains, with and without the method's additions.

    All rollouts are of one task, whose text and image the editor has encoded before, as for every group after a
    task's first.
    """
    config = bench.config
    lease = LeaseSampler(config.seed, len(bench.tasks.train), config.learner.groups_per_step).leases(0, 0)[0]
    task = bench.tasks.train[lease.task_index]

    def rollout(config: RunConfig) -> tuple[Callable[[], float], list[float]]:
        """A function returning the seconds of a rollout without decoding, and a list collecting those of decoding."""
        digest, decoding = config_hash(config), []

        def measure() -> float:
            with timed_decoding(bench.policy, bench.clock) as decoded:
                start = bench.clock()
                roll_out(bench.policy, task, lease, config, digest)
                seconds = bench.clock() - start
            decoding.append(sum(decoded))
            return seconds - sum(decoded)

        return measure, decoding

    off = config.model_copy(
        update={
            "rewards": config.rewards.model_copy(
                update={"weights": {name: w for name, w in config.rewards.weights.items() if name != "acd"}}
            )
        }
    )
    with recorded_calls(bench.policy.transformer) as calls:
        roll_out(bench.policy, task, lease, off, config_hash(off))

    def forwards(editor: Editor) -> Callable[[], None]:
        def replay() -> None:
            with torch.inference_mode():
                for call in calls:
                    editor.transformer(**call)

        return replay

    (plainly, decoding), (concentrating, _) = rollout(off), rollout(with_acd(config))
    without, adapted, bare, concentrated = interleaved(
        [plainly, timed(forwards(bench.policy), bench.clock), timed(forwards(bench.plain), bench.clock), concentrating],
        repetitions,
    )
    decoded = decoding[1:]  # the first warms up
    whole = [rest + last for rest, last in zip(without, decoded, strict=True)]
    return [
        ratio("rollout with adapter, decoding left out / its forwards with adapter", without, adapted, 1.10),
        ratio("whole rollout with adapter, decoding included / its forwards without adapter", whole, bare),
        ratio("forwards with adapter / without adapter", adapted, bare),
        ratio("decoding / rollout with adapter, decoding left out", decoded, without),
        ratio("rollout with ACD / without, both with adapter, decoding left out", concentrated, without, 1.05),
    ]


def measure_learner(bench: Bench, repetitions: int) -> list[Measured]:
    """The learner's work on a group against a bare forward and backward of the same batch; publishing; rewards."""
    # A learning rate so small that the weights stay those of the rollouts, which the learner checks on every group.
    optimizer = bench.config.learner.optimizer.model_copy(update={"lr": 1e-12, "warmup_steps": 0})
    config = bench.config.model_copy(
        update={"learner": bench.config.learner.model_copy(update={"optimizer": optimizer, "steps": repetitions + 2})}
    )
    editor, size = bench.policy, config.learner.groups_per_step
    pool, digest = RewardPool(config.rewards, bench.tasks), config_hash(config)
    leases = LeaseSampler(config.seed, len(bench.tasks.train), size).leases(0, 0)
    groups = [roll_out(editor, bench.tasks.train[lease.task_index], lease, config, digest) for lease in leases]
    rollout_seconds = timed(
        lambda: roll_out(editor, bench.tasks.train[leases[0].task_index], leases[0], config, digest), bench.clock
    )
    scores = [at_once(pool.score(group)) for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(config, editor, bench.tasks, folder)

    def step() -> None:
        for group, score in zip(groups, scores, strict=True):
            report = learner.consume(*at_step(group, score, learner.version))
            if not report.accepted:
                raise RuntimeError(f"the learner rejected a group of the benchmark: {report.reason}")
        updates.append(timed(learner.update, bench.clock)())

    updates: list[float] = []
    with recorded_calls(editor.transformer) as calls:
        step()

    def bare() -> None:
        for call in calls:
            output = editor.transformer(**call)[0]
            output.backward(torch.ones_like(output))
        for parameter in learner.parameters.values():
            parameter.grad = None

    worker = RolloutWorker(config, editor, bench.tasks)

    def publish() -> None:
        worker.set_weights(learner.publish().copied())  # they share an editor: not from and to the same memory

    steps, bares, published, rollouts, scored = interleaved(
        [
            timed(step, bench.clock),
            timed(bare, bench.clock),
            timed(publish, bench.clock),
            rollout_seconds,
            timed(lambda: at_once(pool.score(groups[0])), bench.clock),
        ],
        repetitions,
    )
    per_group = [seconds / size for seconds in steps]
    return [
        ratio("learner per group / bare forward and backward", per_group, [b / size for b in bares], 1.15),
        # One recorded and one warm-up step come before those of the repetitions.
        ratio("update() with the optimizer / learner per group", [u / size for u in updates[2:]], per_group),
        ratio("publish to one worker / rollout of one group", published, rollouts),
        ratio("reward of one group / rollout of one group", scored, rollouts),
    ]


def at_step(group: TrajectoryGroup, scores: GroupScores, version: int) -> tuple[TrajectoryGroup, GroupScores]:
    """A group and its scores relabelled for step `version`, so that the learner accepts them again."""
    lease = replace(group.lease, step=version, policy_version=version)
    return (
        replace(group, lease=lease, policy_version=version),
        replace(scores, group_id=lease.group_id, policy_version=version),
    )


def measure_loop(flags: Sequence[str], pairs: int, cores: int) -> list[Measured]:
    """A step of the loop on Ray, with as many rollout workers as cores, relative to one in a single process.

    Start-up, the first step, held-out measurements and checkpoints are left out.
    """
    seconds: dict[str, list[float]] = {"inline": [], "ray": []}
    with tempfile.TemporaryDirectory(prefix="locus-speed-") as folder:
        for pair in range(pairs):
            for mode in seconds:
                seconds[mode] += loop_steps(
                    folder,
                    f"{mode}-{pair}",
                    [
                        *flags,
                        "--cluster.mode",
                        mode,
                        "--cluster.rollout_workers",
                        str(cores),
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
    return [ratio(f"loop step, Ray with {cores} workers / inline", seconds["ray"], seconds["inline"], 1.0)]


def loop_steps(folder: str, name: str, flags: Sequence[str]) -> list[float]:
    """Wall seconds of every step but the first of a run in separate processes; raises as `loop_run`."""
    return step_seconds(loop_run(folder, name, flags))[1:]


def loop_run(folder: str, name: str, flags: Sequence[str]) -> Path:
    """The metrics file of a run in separate processes.

    Raises:
        RuntimeError: when the run fails; with the end of its output.
    """
    command = [sys.executable, "-m", "learner.main", *flags, "--folder", folder, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{shlex.join(command)} ended with status {done.returncode}:\n"
            + "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        )
    return Path(folder) / name / "metrics.jsonl"


def step_seconds(metrics: Path) -> list[float]:
    """Wall seconds of every step of a run's metrics file, without its checkpoints."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [
        line["system/seconds_step"] - line.get("system/seconds_checkpoint", 0.0)
        for line in lines
        if line["kind"] == "step"
    ]
