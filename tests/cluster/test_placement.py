"""What is asked of Ray: as configured, and as Ray then does it."""

import pytest

from cluster.placement import TRACE, bundles, close_group, in_group, open_group, packs, placement_lines, roles
from configs.load import load_config


def test_every_kind_of_process_is_there_with_what_it_reserves():
    config = load_config([
        "--cluster.rollout_workers", "3", "--cluster.gpus_for_learner", "1", "--cluster.gpus_per_rollout_worker", "0.5",
        "--rewards.judge.editscore.serve.replicas", "2", "--rewards.judge.editscore.serve.path", "somewhere"])
    found = {role.name: (role.count, role.gpus, role.resource) for role in roles(config)}
    assert found == {"learner": (1, 1.0, "learner"), "rollout worker": (3, 0.5, None), "reward pool": (1, 0.0, None),
                     "judge editscore": (2, 1.0, "judge")}
    lines = "\n".join(placement_lines(config))
    assert "1 x learner          1 GPU    placement group, packed; on nodes with the resource 'learner'" in lines
    assert "3 x rollout worker   0.5 GPUs free, spread over nodes\n" in lines


def test_a_learner_without_gpus_needs_no_group():
    assert not packs(load_config([]))
    assert "placement group" not in "\n".join(placement_lines(load_config([])))
    assert placement_lines(load_config(["--cluster.mode", "inline"])) == [
        "placement: everything in this process (cluster.mode inline)"]


@pytest.mark.parametrize("custom", [False, True])
def test_a_bundle_holds_the_gpus_and_no_more_than_a_trace_of_anything_else(custom):
    config = load_config(["--cluster.gpus_for_learner", "2"])
    assert bundles(config, custom) == [{"GPU": 2.0, **({"learner": TRACE} if custom else {})}]


@pytest.mark.ray
def test_a_process_gets_its_place_in_the_group_and_gives_it_back(ray_cluster, monkeypatch):
    import ray
    from ray.util import placement_group_table

    config = load_config([])
    assert open_group(config) is None and in_group(None) == {}
    close_group(None)
    monkeypatch.setattr("cluster.placement.packs", lambda config: True)
    group = open_group(config)

    class Process:
        def group(self):
            return ray.util.get_current_placement_group().id.hex()

    actor = ray.remote(Process).options(num_cpus=0, **in_group(group)).remote()
    assert ray.get(actor.group.remote(), timeout=120) == group.id.hex()
    assert placement_group_table(group)["strategy"] == "PACK"
    close_group(group)
    assert placement_group_table(group)["state"] == "REMOVED"
