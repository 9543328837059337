"""What a run asks Ray for: which processes, how many, with which GPUs, and which of them must be together.

Learner processes that have GPUs, or several of them, are kept on one node by a placement group: they add up their
gradients there (`learner.peers`), and have their place for the whole run. Rollout workers are free: any that can be
had help, wherever they are. Judge servers go to the nodes that have the custom resource `judge`, where the cluster has
such nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.rewards import JUDGES
from configs.schema import RunConfig

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

LEARNER, ROLLOUT, POOL, JUDGE = "learner", "rollout worker", "reward pool", "judge"

OBJECT_STORE_BYTES = 2 * 2**30
"""Of a local Ray: room for some dozen groups of a full-size editor; more spills to disk."""
TRACE = 0.001
"""Of a resource: enough that a bundle may not be empty, and that nothing is kept from anybody."""


@dataclass(frozen=True)
class Role:
    """Processes of one kind.

    Attributes:
        name: `learner`, `rollout worker`, `reward pool`, or `judge NAME`.
        count: how many; of rollout workers those at the start.
        gpus: that Ray reserves for each. CPUs are not reserved.
        resource: a custom resource; where the cluster has it, these processes go to the nodes that have it.
        strategy: how Ray spreads them.
    """

    name: str
    count: int
    gpus: float
    resource: str | None
    strategy: str


def roles(config: RunConfig) -> tuple[Role, ...]:
    """The processes of a run on Ray, besides the driver."""
    cluster, judge = config.cluster, config.rewards.judge
    packed = packs(config)
    served = [(name, getattr(judge, name).serve) for name in JUDGES]
    return (
        Role(LEARNER, learners(config), cluster.gpus_for_learner, LEARNER if packed else None,
             "placement group, on one node" if packed else "free"),
        Role(ROLLOUT, cluster.rollout_workers, cluster.gpus_per_rollout_worker, None, "free, spread over nodes"),
        Role(POOL, 1, 0.0, None, "free"),
        *(Role(f"{JUDGE} {name}", one.replicas, one.gpus, JUDGE, "free") for name, one in served if one.replicas),
    )


def learners(config: RunConfig) -> int:
    """How many learner processes train together."""
    return config.learner.num_workers


def packs(config: RunConfig) -> bool:
    """Whether the learner needs a placement group."""
    return config.cluster.gpus_for_learner > 0 or learners(config) > 1


def bundles(config: RunConfig, custom: bool) -> list[dict[str, float]]:
    """What the learner's placement group reserves, one bundle per process.

    Args:
        config: of the run.
        custom: whether the cluster has the resource `learner`.
    """
    gpus = config.cluster.gpus_for_learner
    one = {**({"GPU": gpus} if gpus else {"CPU": TRACE}), **({LEARNER: TRACE} if custom else {})}
    return [dict(one) for _ in range(learners(config))]


def open_group(config: RunConfig) -> PlacementGroup | None:
    """The learner's placement group, which may still wait for its nodes; None where it needs none.

    Ray must be connected.
    """
    import ray
    from ray.util.placement_group import placement_group

    if not packs(config):
        return None
    return placement_group(bundles(config, LEARNER in ray.cluster_resources()), strategy="STRICT_PACK")


def close_group(group: PlacementGroup | None) -> None:
    """Gives the group's place back; processes that are still in it end."""
    from ray.util.placement_group import remove_placement_group

    if group is not None:
        remove_placement_group(group)


def in_group(group: PlacementGroup | None, index: int = 0) -> dict[str, Any]:
    """Ray options of the learner process that takes bundle `index`."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if group is None:
        return {}
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=index)}


def placement_lines(config: RunConfig) -> list[str]:
    """The placement as text, one process kind per line."""
    if config.cluster.mode == "inline":
        return ["placement: everything in this process (cluster.mode inline)"]
    where = config.cluster.address or "the cluster of the Ray job that this is, or a local one"
    lines = [f"placement on Ray: {where}; CPUs are not reserved, {config.cluster.threads_per_process} thread(s) each"]
    for role in roles(config):
        gpus = f"{role.gpus:g} GPU" + "s" * (role.gpus != 1)
        custom = f"; on nodes with the resource {role.resource!r} where there are any" if role.resource else ""
        lines.append(f"  {role.count:>4} x {role.name:<16} {gpus:<8} {role.strategy}{custom}")
    return lines
