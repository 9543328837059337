"""Tests of editing.rollout_spec."""

from collections import Counter
from typing import get_args

import pytest

from configs.algorithms import AlgorithmConfig, FlowGrpoConfig, MixGrpoConfig
from configs.schema import RunConfig
from editing.rollout_spec import draw_anchors, rollout_spec
from editing.trajectory import Lease

METHODS = [
    one.model_fields["type"].default
    for one in get_args(get_args(AlgorithmConfig)[0])
    if one.model_fields["type"].default != "custom"
]


def test_anchors_are_uniform_without_replacement_and_never_the_reference():
    draws = [draw_anchors(seed, group_size=6, count=2) for seed in range(3000)]
    assert all(len(set(draw)) == 2 and draw[0] < draw[1] for draw in draws)
    pairs = Counter(draw for draw in draws)
    assert set(pairs) == {(a, b) for a in range(1, 6) for b in range(a + 1, 6)}
    assert max(abs(count - 300) for count in pairs.values()) < 80  # 300 ± 16.4 (one sigma) expected


def test_all_perturbed_candidates_can_be_anchors():
    assert draw_anchors(0, group_size=4, count=3) == (1, 2, 3)


@pytest.mark.parametrize("kind", [*METHODS, "custom"])
def test_a_rollout_keeps_as_many_states_as_are_planned(kind):
    method = {"type": kind, **({"method": "mine:Mine"} if kind == "custom" else {})}
    for steps in (4, 6):
        config = RunConfig.model_validate({"algorithm": method, "sampler": {"steps": steps}})
        spec = rollout_spec(config, Lease(0, 0, 0, 0, 0, 0))
        assert (len(spec.kept), len(spec.anchors)) == config.algorithm.kept(steps, config.sampler.group_size)


def test_a_window_slides_from_the_last_place_to_the_first():
    method = MixGrpoConfig(window_size=2, window_every=3)
    assert [method.window(6, step)[0] for step in range(0, 15, 3)] == [0, 1, 2, 3, 0]
    assert FlowGrpoConfig().window(4, 9) == (0, 1, 2) and FlowGrpoConfig(window_start=1).window(4, 0) == (1, 2)


def test_a_shared_prefix_is_what_comes_before_the_window():
    config = RunConfig.model_validate(
        {"algorithm": {"type": "mix_grpo", "window_every": 1}, "sampler": {"steps": 5}, "rewards": {"min_valid": 2}}
    )
    specs = [rollout_spec(config, Lease(step, 0, 0, 0, 7, 0)) for step in range(4)]
    assert [(spec.shared, spec.noisy, spec.kept) for spec in specs] == [(i, (i,), (i,)) for i in range(4)]
