"""What is asked of Ray: as configured, and as Ray then does it."""

import sys

import pytest
import ray
import ray.util.placement_group

from cluster.placement import (
    TRACE,
    beside_the_driver,
    bundles,
    close_placement_group,
    custom,
    in_placement_group,
    most,
    offers,
    open_placement_group,
    packs,
    placement_lines,
    roles,
)
from configs.load import load_config


def test_every_kind_of_process_is_there_with_what_it_reserves():
    config = load_config(
        [
            "--cluster.rollout_workers",
            "3",
            "--cluster.gpus_for_learner",
            "1",
            "--cluster.gpus_per_rollout_worker",
            "0.5",
            "--rewards.judge.editscore.serve.replicas",
            "2",
            "--rewards.judge.editscore.serve.path",
            "somewhere",
        ]
    )
    found = {role.name: (role.count, role.gpus, role.resource) for role in roles(config)}
    assert found == {
        "learner": (1, 1.0, "learner"),
        "rollout worker": (3, 0.5, "rollout"),
        "reward pool": (1, 0.0, None),
        "judge editscore": (2, 1.0, "judge"),
    }
    lines = "\n".join(placement_lines(config))
    assert "1 x learner          1 GPU         placement group, on one node; on nodes with the resource 'learn" in lines
    assert "3 x rollout worker   0.5 GPUs each free, spread over nodes; on nodes with the resource 'rollout'" in lines
    assert "1 x reward pool      0 GPUs        beside the driver\n" in lines


def test_learner_processes_are_counted_and_each_has_its_own_gpus():
    config = load_config(["--learner.num_workers", "4", "--cluster.gpus_for_learner", "2"])
    assert "4 x learner          2 GPUs each   placement group, on one node" in "\n".join(placement_lines(config))
    assert bundles(config, {}) == [{"GPU": 2.0}] * 4


def test_a_learner_without_gpus_needs_no_group():
    assert not packs(load_config([]))
    assert "placement group" not in "\n".join(placement_lines(load_config([])))
    assert placement_lines(load_config(["--cluster.mode", "inline"])) == [
        "placement: everything in a single process (cluster.mode inline)"
    ]


def test_a_bundle_holds_the_gpus_and_no_more_than_a_trace_of_anything_else():
    nodes = {"learner": TRACE}
    assert bundles(load_config(["--cluster.gpus_for_learner", "2"]), nodes) == [{"GPU": 2.0, "learner": TRACE}]
    assert bundles(load_config([]), nodes) == [nodes]
    assert bundles(load_config(["--learner.num_workers", "2"]), {}) == [{"CPU": TRACE}] * 2  # it may not be empty


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"CPU": 8.0, "GPU": 1.0}, {}),
        ({"judge": 1.0}, {"judge": TRACE}),
        ({"most:judge": 4.0}, {"judge": TRACE}),  # no such node now, and none has ever been
        ({"most:rollout": 8.0, "learner": 1.0}, {}),
    ],
)
def test_a_process_goes_to_nodes_of_its_role_also_when_they_are_still_to_come(there, expected, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    assert custom("judge") == expected and offers("judge") == bool(expected)


def test_the_head_says_what_a_cluster_may_grow_to(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0, "most:GPU": 13.0})
    assert most("GPU") == 13 and most("judge") is None


def test_a_learner_without_gpus_has_a_group_where_there_are_nodes_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(
        sys.modules["ray.util.placement_group"], "placement_group", lambda bundles, strategy: asked.append(bundles)
    )
    for there in ({"CPU": 8.0}, {"most:learner": 1.0}):
        monkeypatch.setattr(ray, "cluster_resources", lambda there=there: there)
        open_placement_group(load_config([]))
    assert asked == [[{"learner": TRACE}]]


@pytest.mark.ray
def test_a_process_gets_its_place_in_the_group_and_gives_it_back(ray_cluster, monkeypatch):
    from ray.util import placement_group_table

    config = load_config([])
    assert open_placement_group(config) is None and in_placement_group(None) == {}
    close_placement_group(None)
    monkeypatch.setattr("cluster.placement.packs", lambda config: True)
    group = open_placement_group(config)

    class Process:
        def group(self):
            return ray.util.get_current_placement_group().id.hex()

    actor = ray.remote(Process).options(num_cpus=0, **in_placement_group(group)).remote()
    assert ray.get(actor.group.remote(), timeout=120) == group.id.hex()
    assert placement_group_table(group)["strategy"] == "STRICT_PACK"
    close_placement_group(group)
    assert placement_group_table(group)["state"] == "REMOVED"


@pytest.mark.ray
def test_the_pool_is_on_the_driver_s_node(ray_cluster):
    @ray.remote(num_cpus=0)
    def node() -> str:
        return ray.get_runtime_context().get_node_id()

    found = ray.get(node.options(**beside_the_driver()).remote(), timeout=120)
    assert found == ray.get_runtime_context().get_node_id()
