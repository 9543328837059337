"""GPUs: what a configuration asks for and what a machine has."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.doctor.finding import Finding
from cluster.placement import learners
from configs.rewards import JUDGES
from configs.schema import RunConfig

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits")
BUSY_MEGABYTES = 1024
"""More than a desktop or an idle driver holds: somebody else's work."""


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in MiB."""

    name: str
    total: int
    used: int
    driver: str


@dataclass(frozen=True)
class Needs:
    """GPUs that the processes of a run reserve: all together, and the most that must be on one machine, be it for one
    process or for all learner processes."""

    total: float
    largest: float


def needs(config: RunConfig) -> Needs:
    """What Ray will be asked for; without Ray, the one GPU that `editor.device` names."""
    cluster, judge = config.cluster, config.rewards.judge
    served = [(one.serve.replicas, one.serve.gpus) for one in (getattr(judge, name) for name in JUDGES)]
    shares = [share for replicas, share in served for _ in range(replicas)]
    if cluster.mode == "inline":
        shares.append(1.0 if config.editor.device.startswith("cuda") else 0.0)
    else:
        shares.append(learners(config) * cluster.gpus_for_learner)
        shares += [cluster.gpus_per_rollout_worker] * cluster.rollout_workers
        shares.append(config.rewards.embedding.gpus)
    return Needs(sum(shares), max(shares))


def query(command: Sequence[str] = QUERY) -> list[Gpu]:
    """The GPUs of this machine; none where there is no driver.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: when there is one, but it does not answer as it should.
    """
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return [Gpu(name, int(total), int(used), driver) for name, total, used, driver in rows]


def machine_finding(find: Callable[[], list[Gpu]] = query) -> tuple[Finding, int]:
    """The line about this machine's GPUs, and how many there are."""
    try:
        gpus = find()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Finding(
            "gpus",
            "fail",
            f"the driver does not answer: {error}",
            "look at `nvidia-smi` on this machine; reinstall the driver or restart the machine",
        ), 0
    if not gpus:
        return Finding("gpus", "ok", "none"), 0
    seen = ", ".join(f"{gpu.name} {gpu.total / 1024:.0f} GiB" for gpu in gpus) + f"; driver {gpus[0].driver}"
    busy = [str(number) for number, gpu in enumerate(gpus) if gpu.used > BUSY_MEGABYTES]
    if busy:
        return Finding(
            "gpus",
            "warn",
            f"{seen}; memory of number {', '.join(busy)} is in use already",
            "end what holds it (`nvidia-smi` names it), or leave that machine out",
        ), len(gpus)
    return Finding("gpus", "ok", seen), len(gpus)


def enough(config: RunConfig, per_node: Sequence[float], at_most: float | None) -> Finding:
    """Whether a cluster has the GPUs that the configuration asks for.

    Args:
        per_node: GPUs of each node there is.
        at_most: what the autoscaler may bring it to; None without one.
    """
    asked, there = needs(config), sum(per_node)
    # Ray gives no share of a GPU to a process that may land anywhere, so `cuda` must be asked for where nodes differ.
    if config.editor.device.startswith("cuda") and asked.total == 0 and min(per_node, default=0) == 0:
        return Finding(
            "gpus asked",
            "fail",
            f"editor.device is {config.editor.device}, but no GPU is reserved and some node has none",
            "set cluster.gpus_for_learner and cluster.gpus_per_rollout_worker",
        )
    seen = f"{asked.total:g} asked, {there:g} there"
    if config.cluster.mode == "inline" and asked.total > there:
        return Finding("gpus asked", "fail", seen, "take a machine with a GPU, or --editor.device cpu")
    if asked.largest > max(per_node, default=0):
        together = f"{seen}; {asked.largest:g} must be on one node, no node has as many"
        if at_most is None or at_most < asked.largest:
            return Finding(
                "gpus asked",
                "fail",
                together,
                "lower cluster.gpus_for_learner, learner.num_workers, "
                "cluster.gpus_per_rollout_worker or serve.gpus of the judge",
            )
        if asked.largest > 1:
            return Finding(
                "gpus asked",
                "warn",
                f"{together} now",
                "see that the autoscaler may start a machine with "
                f"{asked.largest:g} GPUs, or the run waits for it in vain",
            )
    if asked.total > there and (at_most is None or at_most < asked.total):
        return Finding(
            "gpus asked",
            "fail",
            seen if at_most is None else f"{seen}, {at_most:g} with autoscaling",
            "add nodes, or lower cluster.rollout_workers or the judge's serve.replicas",
        )
    if asked.total > there:
        return Finding(
            "gpus asked",
            "warn",
            f"{seen}, {at_most:g} with autoscaling",
            "nothing: the run waits while the autoscaler starts machines; `ray status` shows them",
        )
    return Finding("gpus asked", "ok", seen)
