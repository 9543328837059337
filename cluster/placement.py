"""Placement of a run on Ray: which processes, how many, with which GPUs, and which of them must be colocated.

A placement group keeps learner processes with GPUs, or several of them, on one node for the whole run: they are
data-parallel peers (`learner.update.data_parallel`). Rollout workers are free: every available one helps, wherever it
is. If a cluster has nodes for a role, its processes run there and nowhere else; a node declares its role as a custom
resource, `learner`, `rollout` or `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.judges import JUDGES
from configs.schema import RunConfig
from configs.text import counted

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

LEARNER, ROLLOUT, POOL, JUDGE = "learner", "rollout worker", "reward pool", "judge"

OBJECT_STORE_BYTES = 2 * 2**30
"""Object store of a local Ray: room for some dozens of groups of a full-size editor; more spills to disk."""
TRACE = 0.001
"""Amount of a resource: enough to be scheduled on the nodes that have it, too little to exclude other processes."""
MOST = "most:"
"""Prefix of a resource on the head of an autoscaled cluster: `most:judge: 4` declares that there may be four judge
nodes, whether or not there is one now. The autoscaler does not expose its limits: Ray 2.60 has a function for it
(`get_max_resources_from_cluster_config`), but nothing feeds it."""


@dataclass(frozen=True)
class Role:
    """Processes of one kind.

    Attributes:
        name: `learner`, `rollout worker`, `reward pool`, or `judge NAME`.
        count: number of processes; for rollout workers, the initial number.
        gpus: GPUs that Ray reserves for each. CPUs are not reserved.
        resource: a custom resource; if the cluster has nodes that offer it, these processes run there.
        strategy: how Ray places them.
    """

    name: str
    count: int
    gpus: float
    resource: str | None
    strategy: str


def roles(config: RunConfig) -> tuple[Role, ...]:
    """The processes of a run on Ray, without the driver."""
    cluster, judge = config.cluster, config.rewards.judge
    packed = packs(config)
    served = [(name, getattr(judge, name).serve) for name in JUDGES]
    return (
        Role(
            LEARNER,
            config.learner.num_workers,
            cluster.gpus_for_learner,
            "learner",
            "placement group, on one node" if packed else "free",
        ),
        Role(ROLLOUT, cluster.rollout_workers, cluster.gpus_per_rollout_worker, "rollout", "free, spread over nodes"),
        Role(POOL, 1, config.rewards.embedding.gpus, None, "beside the driver"),
        *(Role(f"{JUDGE} {name}", one.replicas, one.gpus, "judge", "free") for name, one in served if one.replicas),
    )


def packs(config: RunConfig) -> bool:
    """Whether the learner needs a placement group."""
    return config.cluster.gpus_for_learner > 0 or config.learner.num_workers > 1


def most(resource: str) -> float | None:
    """Amount of a resource that a cluster may grow to; None if its head does not declare it. Ray must be connected."""
    import ray

    found: float | None = ray.cluster_resources().get(f"{MOST}{resource}")
    return found


def offers(resource: str) -> bool:
    """Whether some node has a custom resource, or one that has it may be started. Ray must be connected."""
    import ray

    return ray.cluster_resources().get(resource, 0) > 0 or most(resource) is not None


def custom(resource: str) -> dict[str, float]:
    """Ray's `resources` for a process that belongs on nodes with a custom resource; empty if there are none.

    Ray must be connected.
    """
    return {resource: TRACE} if offers(resource) else {}


def beside_the_driver() -> dict[str, Any]:
    """Ray options of a process that is useless without the current one: same node, if that has room.

    Ray must be connected.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)}


def bundles(config: RunConfig, nodes: Mapping[str, float]) -> list[dict[str, float]]:
    """Bundles of the learner's placement group, one per process.

    Args:
        config: the run's configuration.
        nodes: `custom("learner")`.
    """
    gpus = config.cluster.gpus_for_learner
    one = {**({"GPU": gpus} if gpus else {}), **nodes} or {"CPU": TRACE}
    return [dict(one) for _ in range(config.learner.num_workers)]


def open_placement_group(config: RunConfig) -> PlacementGroup | None:
    """The learner's placement group, possibly still pending; None if it needs none.

    Ray must be connected.
    """
    from ray.util.placement_group import placement_group

    nodes = custom("learner")
    if not (packs(config) or nodes):
        return None
    return placement_group(bundles(config, nodes), strategy="STRICT_PACK")


def close_placement_group(group: PlacementGroup | None) -> None:
    """Release a placement group; processes still in it are killed."""
    from ray.util.placement_group import remove_placement_group

    if group is not None:
        remove_placement_group(group)


def in_placement_group(group: PlacementGroup | None, index: int = 0) -> dict[str, Any]:
    """Ray options of the learner process in bundle `index`."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if group is None:
        return {}
    return {
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        )
    }


def placement_lines(config: RunConfig) -> list[str]:
    """The placement as text, one kind of process per line."""
    if config.cluster.mode == "inline":
        return ["placement: everything in a single process (cluster.mode inline)"]
    where = config.cluster.address or "the enclosing Ray job's cluster, or a local one"
    threads = counted(config.cluster.threads_per_process, "thread")
    lines = [f"placement on Ray: {where}; CPUs are not reserved, {threads} each"]
    for role in roles(config):
        gpus = f"{role.gpus:g} GPU" + "s" * (role.gpus != 1) + " each" * (role.count > 1)
        nodes = f"; on nodes with the resource {role.resource!r} if there are any" if role.resource else ""
        lines.append(f"  {role.count:>4} x {role.name:<16} {gpus:<13} {role.strategy}{nodes}")
    return lines
