"""A run whose learner is in a placement group trains as one whose learner is not."""

import pytest
from safetensors.numpy import load_file

from learner.run import run
from tests.learner.tiny_run import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]


def test_a_run_packs_its_learner_and_gives_the_place_back(ray_cluster, tiny_kontext, tmp_path, monkeypatch):
    from ray.util import placement_group_table

    before = set(placement_group_table())
    free = run(tiny_run(tiny_kontext, tmp_path, "free", {"cluster": {"mode": "ray"}}))
    assert set(placement_group_table()) == before
    monkeypatch.setattr("cluster.placement.packs", lambda config: True)
    packed = run(tiny_run(tiny_kontext, tmp_path, "packed", {"cluster": {"mode": "ray"}}))
    (made,) = set(placement_group_table()) - before
    assert placement_group_table()[made]["state"] == "REMOVED"
    one, other = (load_file(summary["adapter"]) for summary in (free, packed))
    assert all((one[name] == other[name]).all() for name in one)
