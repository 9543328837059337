"""What a run asks Ray for: which processes, how many, with which GPUs, and which of them must be together.

Learner processes that have GPUs, or several of them, are kept on one node by a placement group: they add up their
gradients there (`learner.update.data_parallel`), and have their place for the whole run. Rollout workers are free: any
that can be had help, wherever they are. Where a cluster has nodes for a role, its processes go there and nowhere else;
a node says what it is for by a custom resource, `learner`, `rollout` or `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
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
"""Of a resource: enough to be sent to the nodes that have it, and so little that nothing is kept from anybody."""
MOST = "most:"
"""Before the name of a resource, what the head of a growing cluster has of it: `most:judge: 4` says that there may be
four judge nodes, whether or not there is one now. The autoscaler knows, but tells nobody: Ray 2.60 has a function for
it (`get_max_resources_from_cluster_config`) and nothing that feeds it."""


@dataclass(frozen=True)
class Role:
    """Processes of one kind.

    Attributes:
        name: `learner`, `rollout worker`, `reward pool`, or `judge NAME`.
        count: how many; of rollout workers those at the start.
        gpus: that Ray reserves for each. CPUs are not reserved.
        resource: a custom resource; where the cluster has nodes that offer it, these processes go there.
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
        Role(
            LEARNER,
            learners(config),
            cluster.gpus_for_learner,
            "learner",
            "placement group, on one node" if packed else "free",
        ),
        Role(ROLLOUT, cluster.rollout_workers, cluster.gpus_per_rollout_worker, "rollout", "free, spread over nodes"),
        Role(POOL, 1, config.rewards.embedding.gpus, None, "beside the driver"),
        *(Role(f"{JUDGE} {name}", one.replicas, one.gpus, "judge", "free") for name, one in served if one.replicas),
    )


def learners(config: RunConfig) -> int:
    """How many learner processes train together."""
    return config.learner.num_workers


def packs(config: RunConfig) -> bool:
    """Whether the learner needs a placement group."""
    return config.cluster.gpus_for_learner > 0 or learners(config) > 1


def most(resource: str) -> float | None:
    """How much of a resource a cluster may grow to have; None where its head does not say. Ray must be connected."""
    import ray

    found: float | None = ray.cluster_resources().get(f"{MOST}{resource}")
    return found


def offers(resource: str) -> bool:
    """Whether some node has a custom resource, or may still be started for it. Ray must be connected."""
    import ray

    return ray.cluster_resources().get(resource, 0) > 0 or most(resource) is not None


def custom(resource: str) -> dict[str, float]:
    """Ray's `resources` of a process that belongs on nodes with a custom resource; none where there are no such nodes.

    Ray must be connected.
    """
    return {resource: TRACE} if offers(resource) else {}


def beside_the_driver() -> dict[str, Any]:
    """Ray options of a process that is useless without this one: it goes to this one's node, if that has room.

    Ray must be connected.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)}


def bundles(config: RunConfig, nodes: Mapping[str, float]) -> list[dict[str, float]]:
    """What the learner's placement group reserves, one bundle per process.

    Args:
        config: of the run.
        nodes: `custom("learner")`.
    """
    gpus = config.cluster.gpus_for_learner
    one = {**({"GPU": gpus} if gpus else {}), **nodes} or {"CPU": TRACE}
    return [dict(one) for _ in range(learners(config))]


def open_group(config: RunConfig) -> PlacementGroup | None:
    """The learner's placement group, which may still wait for its nodes; None where it needs none.

    Ray must be connected.
    """
    from ray.util.placement_group import placement_group

    nodes = custom("learner")
    if not (packs(config) or nodes):
        return None
    return placement_group(bundles(config, nodes), strategy="STRICT_PACK")


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
    return {
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        )
    }


def placement_lines(config: RunConfig) -> list[str]:
    """The placement as text, one process kind per line."""
    if config.cluster.mode == "inline":
        return ["placement: everything in this process (cluster.mode inline)"]
    where = config.cluster.address or "the cluster of the Ray job that this is, or a local one"
    lines = [f"placement on Ray: {where}; CPUs are not reserved, {config.cluster.threads_per_process} thread(s) each"]
    for role in roles(config):
        gpus = f"{role.gpus:g} GPU" + "s" * (role.gpus != 1) + " each" * (role.count > 1)
        nodes = f"; on nodes with the resource {role.resource!r} where there are any" if role.resource else ""
        lines.append(f"  {role.count:>4} x {role.name:<16} {gpus:<13} {role.strategy}{nodes}")
    return lines
