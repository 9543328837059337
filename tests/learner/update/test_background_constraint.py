"""The background as a constraint: its weight follows what is measured, and acts on the loss."""

import json
import math

import pytest

from configs.algorithms import RcGrpoConfig
from configs.errors import ConfigError
from configs.load import load_config
from configs.method_families import PreservationConfig
from learner.reporting.metrics import MetricsLog
from learner.run import run
from learner.state.checkpoint import load_step
from learner.update.background_constraint import BackgroundConstraint
from rewards.result import GroupScores, Score
from tests.learner.rig import Rig, made_scores, tiny_config, weights_of
from tests.learner.tiny_run import tiny_run

FREE = RcGrpoConfig()


def held(target: float, weight: float = 0.5, rate: float = 0.1) -> RcGrpoConfig:
    return RcGrpoConfig(
        preservation=PreservationConfig(background_weight=weight, background_target=target, background_rate=rate)
    )


def scored(components: dict, diagnostics: dict) -> GroupScores:
    def rows(values):
        return {
            name: tuple(Score(error="none") if v is None else Score(value=v) for v in row)
            for name, row in values.items()
        }

    return GroupScores("g", 0, rows(components), 0.0, rows(diagnostics))


@pytest.mark.parametrize(("target", "direction"), [(59.0, 1), (2.0, -1)])
def test_the_weight_rises_while_the_target_is_missed_and_falls_otherwise(target, direction, tiny_kontext, tmp_path):
    preservation = {"background_weight": 0.4, "background_target": target, "background_rate": 0.25}
    over = {
        "rewards": {"weights": {"edit_psnr": 1.0, "background_psnr": 0.0, "acd": 0.0}},
        "algorithm": {"preservation": preservation},
    }
    run(tiny_run(tiny_kontext, tmp_path, "r", over), observers=[MetricsLog()])
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    # The weight of each step, which is off by whole decibels every time.
    expected = [0.4 * math.exp(0.25 * direction * step) for step in range(4)]
    assert [line["learner/background_weight"] for line in steps] == pytest.approx(expected)
    for line in steps:
        # What is measured is what the report says of the same candidates, though no reward has it.
        assert line["learner/background_measured"] == pytest.approx(line["reward/background_psnr"])
        assert line["learner/background_violation"] == pytest.approx(target - line["reward/background_psnr"])


def test_the_step_after_is_made_with_the_new_weight(tiny_kontext, tmp_path):
    def over(**preservation):
        return {"algorithm": {"preservation": {"background_weight": 0.5, **preservation}}}

    moving = Rig(tiny_config(tiny_kontext, **over(background_target=40.0, background_rate=0.5)), tmp_path / "moving")
    fixed = Rig(tiny_config(tiny_kontext, **over()), tmp_path / "fixed")
    moving.step(0), fixed.step(0)
    assert weights_of(moving.learner) == weights_of(fixed.learner), "the first step has the weight that it begins with"
    moving.learner.save()
    weight = moving.learner.state["constraint"]["weight"]
    assert weight == pytest.approx(0.5 * math.exp(0.5))
    same = Rig(tiny_config(tiny_kontext, **over(background_weight=weight)), tmp_path / "same")
    same.learner.restore(load_step(moving.learner.checkpoints, 1), allowed=["algorithm"])
    same.learner._constraint = BackgroundConstraint(same.config.algorithm)
    for one in (moving, same, fixed):
        one.publish()
        for group in one.groups(1):
            # Of one configuration or another: what is compared is what is made of the same candidates.
            assert one.learner.consume(group, made_scores(group)).accepted
        one.learner.update()
    assert weights_of(moving.learner) == weights_of(same.learner) != weights_of(fixed.learner)


def test_the_mean_is_that_of_the_valid_candidates_of_all_groups():
    constraint = BackgroundConstraint(held(30.0))
    constraint.measure(scored({"judge": [1.0, None, 2.0]}, {"background_psnr": [28.0, 99.0, 30.0]}))
    constraint.measure(scored({"judge": [1.0], "background_psnr": [32.0]}, {}))
    assert constraint.finish_step(True) == {
        "background_weight": 0.5,
        "background_measured": 30.0,
        "background_violation": 0.0,
    }
    constraint.measure(scored({"judge": [1.0, 1.0]}, {"background_psnr": [29.0, 30.0]}))
    constraint.finish_step(True)
    assert constraint.state == {"weight": pytest.approx(0.5 * math.exp(0.1 * 0.5)), "violation": 0.5}
    assert constraint.config.preservation.background_weight == constraint.state["weight"]


def test_without_a_background_or_a_step_the_weight_stays():
    constraint = BackgroundConstraint(held(30.0))
    constraint.measure(scored({"judge": [1.0]}, {"background_psnr": [None]}))  # a mask over the whole image
    assert constraint.finish_step(True) == {"background_weight": 0.5}
    constraint.measure(scored({"judge": [1.0]}, {"background_psnr": [20.0]}))
    assert constraint.finish_step(applied=False)["background_violation"] == 10.0
    assert constraint.state == {"weight": 0.5, "violation": 0.0}


def test_scores_without_the_measurement_are_refused():
    with pytest.raises(ValueError, match=r"group g has no background_psnr, which algorithm\.preservation\.background"):
        BackgroundConstraint(held(30.0)).measure(scored({"judge": [1.0]}, {}))


def test_without_a_target_there_is_nothing():
    constraint = BackgroundConstraint(FREE)
    constraint.measure(scored({"judge": [1.0]}, {}))
    assert constraint.finish_step(True) == {} and constraint.state is None and constraint.config is FREE


def test_a_weight_that_is_off_cannot_follow_a_target():
    with pytest.raises(ConfigError, match=r"algorithm\.preservation\.background_weight: expected a weight above 0"):
        load_config(["--algorithm.type", "flow_grpo", "--algorithm.preservation.background_target", "28"])
