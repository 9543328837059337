"""GPUs: what a configuration requests and what a machine has."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.doctor.finding import Finding
from configs.judges import JUDGES
from configs.schema import RunConfig

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits")
BUSY_MEGABYTES = 1024
"""More than a desktop or an idle driver uses: another workload."""


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in MiB."""

    name: str
    total: int
    used: int
    driver: str


@dataclass(frozen=True)
class Needs:
    """GPUs that a run's processes reserve: in total, and the most that must be on one machine, for one process or for
    all learner processes."""

    total: float
    largest: float


def needs(config: RunConfig) -> Needs:
    """The GPUs to request from Ray; without Ray, the one GPU of `editor.device`."""
    cluster, judge = config.cluster, config.rewards.judge
    served = [(one.serve.replicas, one.serve.gpus) for one in (getattr(judge, name) for name in JUDGES)]
    shares = [share for replicas, share in served for _ in range(replicas)]
    if cluster.mode == "inline":
        shares.append(1.0 if config.editor.device.startswith("cuda") else 0.0)
    else:
        shares.append(config.learner.num_workers * cluster.gpus_for_learner)
        shares += [cluster.gpus_per_rollout_worker] * cluster.rollout_workers
        shares.append(config.rewards.embedding.gpus)
    return Needs(sum(shares), max(shares))


def query(command: Sequence[str] = QUERY) -> list[Gpu]:
    """The GPUs of this machine; none without a driver.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: the driver fails or returns something unexpected.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [Gpu(name, int(total), int(used), driver) for name, total, used, driver in rows]


def machine_finding(find: Callable[[], list[Gpu]] = query) -> tuple[Finding, int]:
    """The finding about this machine's GPUs, and their number."""
    try:
        gpus = find()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Finding(
            "gpus",
            "fail",
            f"the driver does not respond: {error}",
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
            f"{seen}; memory of GPU {', '.join(busy)} is in use already",
            "stop the process that uses it (see `nvidia-smi`), or leave that machine out",
        ), len(gpus)
    return Finding("gpus", "ok", seen), len(gpus)


def enough(config: RunConfig, per_node: Sequence[float], at_most: float | None) -> Finding:
    """Whether a cluster has the GPUs that the configuration requests.

    Args:
        per_node: GPUs of each existing node.
        at_most: total up to which the autoscaler may grow the cluster; None without one.
    """
    asked, there = needs(config), sum(per_node)
    # A process without a GPU reservation may land on any node, so `cuda` needs one if some nodes have no GPU.
    if config.editor.device.startswith("cuda") and asked.total == 0 and min(per_node, default=0) == 0:
        return Finding(
            "gpus requested",
            "fail",
            f"editor.device is {config.editor.device}, but no GPU is reserved and some node has none",
            "set cluster.gpus_for_learner and cluster.gpus_per_rollout_worker",
        )
    seen = f"{asked.total:g} requested, {there:g} available"
    if config.cluster.mode == "inline" and asked.total > there:
        return Finding("gpus requested", "fail", seen, "take a machine with a GPU, or --editor.device cpu")
    if asked.largest > max(per_node, default=0):
        together = f"{seen}; {asked.largest:g} must be on one node, but no node has that many"
        if at_most is None or at_most < asked.largest:
            return Finding(
                "gpus requested",
                "fail",
                together,
                "lower cluster.gpus_for_learner, learner.num_workers, "
                "cluster.gpus_per_rollout_worker or serve.gpus of the judge",
            )
        if asked.largest > 1:
            return Finding(
                "gpus requested",
                "warn",
                f"{together} now",
                "check that the autoscaler can start a machine with "
                f"{asked.largest:g} GPUs; otherwise the run waits forever",
            )
    if asked.total > there and (at_most is None or at_most < asked.total):
        return Finding(
            "gpus requested",
            "fail",
            seen if at_most is None else f"{seen}, {at_most:g} with autoscaling",
            "add nodes, or lower cluster.rollout_workers or the judge's serve.replicas",
        )
    if asked.total > there:
        return Finding(
            "gpus requested",
            "warn",
            f"{seen}, {at_most:g} with autoscaling",
            "nothing: the run waits while the autoscaler starts machines; `ray status` shows them",
        )
    return Finding("gpus requested", "ok", seen)
