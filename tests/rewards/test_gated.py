"""The gated reward: its formula, how components become its two parts, and what it removes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.components import COMPONENT_RANGES
from configs.edit_signal import check_edit_signal, edit_rewards
from configs.errors import ConfigError
from configs.load import load_config
from configs.rewards import RewardsConfig
from rewards.compose import compose, composed
from rewards.gated import Gate, gated_reward
from tests.rewards.test_compose import scored

unit = st.floats(0, 1)
WEIGHTS = {"edit_score": 1.0, "edit_psnr": 3.0, "background_psnr": 0.5, "background_ssim": 1.5}
GATED = RewardsConfig(weights=WEIGHTS, composition="gated", w1=0.7, w2=0.2, floors=dict.fromkeys(WEIGHTS, 0.0))


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=6), st.floats(0.1, 3), st.floats(0, 3))
def test_gated_reward_equals_the_formula_and_stays_in_its_range(rows, w1, w2):
    execution, consistency = (np.array(column) for column in zip(*rows, strict=True))
    got = gated_reward(execution, consistency, w1, w2)
    assert got.tolist() == pytest.approx([e * (w1 + w2 * c) / (w1 + w2) for e, c in rows], rel=1e-12, abs=1e-15)
    assert got.dtype == np.float64 and ((got >= 0) & (got <= 1 + 1e-12)).all()


def test_an_image_that_was_left_alone_is_worth_nothing():
    assert gated_reward(np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0])).tolist() == [0.0, 0.6, 1.0]


def test_faults_of_the_reward_are_sentences():
    good = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"must have the same shape, got \[2\] and \[1\]"):
        gated_reward(good, good[:1])
    for bad in (1.1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"execution: expected scores in \[0, 1\]"):
            gated_reward(np.array([0.5, bad]), good)
        with pytest.raises(ValueError, match=r"consistency: expected scores in \[0, 1\]"):
            gated_reward(good, np.array([0.5, bad]))
    for weights in ((0.0, 1.0), (1.0, -0.1), (math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="expected w1 above 0 and w2 not negative"):
            gated_reward(good, good, *weights)


def by_loops(rows):
    """The reward of each candidate (None: not scored), a scalar at a time."""
    found = []
    for row in rows:
        if None in row.values():
            found.append(0.0)
            continue
        scaled = {}
        for name, value in row.items():
            low, high, _ = COMPONENT_RANGES[name]
            scaled[name] = min(max((value - low) / (high - low), 0.0), 1.0)
        e = (1.0 * scaled["edit_score"] + 3.0 * scaled["edit_psnr"]) / 4
        c = (0.5 * scaled["background_psnr"] + 1.5 * scaled["background_ssim"]) / 2
        found.append(e * (0.7 + 0.2 * c) / 0.9)
    return found


score = {
    "edit_score": st.floats(-0.2, 1.2),
    "edit_psnr": st.floats(5, 60),
    "background_psnr": st.floats(5, 60),
    "background_ssim": st.floats(-1, 1),
}
candidate = st.fixed_dictionaries({name: st.one_of(of, of, of, st.none()) for name, of in score.items()})


@given(st.lists(st.lists(candidate, min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_gated_group_equals_a_scalar_loop_over_scaled_scores(batch):
    groups = [scored({name: [row[name] for row in rows] for name in WEIGHTS}) for rows in batch]
    for rows, got in zip(batch, composed(groups, GATED), strict=True):
        # Without floors, what differs by rounding alone still counts as equal.
        np.testing.assert_allclose(got.rewards, by_loops(rows), rtol=0, atol=1e-4)
        assert got.valid.tolist() == [None not in row.values() for row in rows]


def test_the_sum_prefers_a_copy_where_the_gate_does_not():
    """A copy of the source, a fair edit that moved the background a little, a good edit that moved it more."""
    group = scored({"edit_score": [0.0, 0.5, 0.8], "background_psnr": [50.0, 34.0, 30.0]})
    weights = {"edit_score": 1.0, "background_psnr": 0.1}
    (summed,) = composed([group], RewardsConfig(weights=weights))
    (gated,) = composed([group], RewardsConfig(weights=weights, composition="gated"))
    assert summed.rewards.argmax() == 0 and gated.rewards.argmin() == 0 and gated.rewards[0] == 0


def test_where_the_edit_does_not_vary_the_background_alone_teaches_nothing():
    """At its floor, or beyond its range: there all values are the end of it."""
    for edit, floored in (([0.5, 0.5005], ("edit_score",)), ([1.5, 2.5], ())):
        config = RewardsConfig(weights={"edit_score": 1.0, "background_psnr": 0.1}, composition="gated")
        (got,) = composed([scored({"edit_score": edit, "background_psnr": [20.0, 40.0]})], config)
        assert got.filter == "edit" and got.edit_zero_variance and got.floored == floored


def test_a_scorer_of_ones_own_has_the_range_that_it_is_given():
    config = RewardsConfig(
        weights={"mine": 2.0, "background_psnr": 1.0},
        scorers={"mine": "m:f"},
        scorer_ranges={"mine": (-1, 3)},
        composition="gated",
    )
    (got,) = composed([scored({"mine": [1.0, 3.0], "background_psnr": [30.0, 30.0]})], config)
    assert got.rewards.tolist() == pytest.approx([0.5 * (0.6 + 0.4 * 0.5), 0.6 + 0.4 * 0.5])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rewards.normalisation", "pooled"], "rewards.normalisation: expected none with rewards.composition gated"),
        (["--rewards.weights.acd", "1"], "rewards.weights.acd: expected 0 with rewards.composition gated"),
        (["--rewards.weights.background_psnr", "-1"], "rewards.weights.background_psnr: expected at least 0"),
        (["--rewards.weights", "{edit_score: 1}"], "expected a reward for what is outside the mask"),
        (["--rewards.weights", "{background_psnr: 1}"], "expected a reward for the edit"),
        (
            ["--rewards.scorers.mine", "m:f", "--rewards.weights.mine", "1"],
            r"rewards.scorer_ranges.mine: expected its smallest and largest value, got none",
        ),
        (["--rewards.scorer_ranges.mine", "[0, 1]"], "rewards.scorer_ranges: expected names from rewards.scorers"),
        (["--rewards.w1", "0"], "rewards.w1"),
    ],
)
def test_what_a_gate_cannot_combine_is_refused(flags, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(["--rewards.composition", "gated", *flags])


@pytest.mark.parametrize("range_", ["[1, 1]", "[2, 1]"])
def test_a_range_that_is_none_is_refused(range_):
    mine = ["--rewards.scorers.mine", "m:f", "--rewards.weights.mine", "1", "--rewards.scorer_ranges.mine", range_]
    with pytest.raises(ConfigError, match=r"rewards\.scorer_ranges\.mine: expected two numbers"):
        load_config(mine)


def test_a_judge_may_be_gated_and_is_not_pooled_then():
    judged = load_config(
        ["--rewards.composition", "gated", "--rewards.judge.qwen_vl.urls", "[http://host:8000/v1]"]
    ).rewards
    assert judged.normalisation == "none" and judged.weights == {"qwen_vl": 1.0, "background_psnr": 0.25}
    assert edit_rewards(judged) == ("qwen_vl",)


def test_weights_of_a_gate_count_among_those_of_their_kind():
    """Of a sum, an edit score that weighs a thousandth of the background is drowned out."""
    weights = ["--rewards.weights", "{edit_score: 0.001, background_psnr: 1}"]
    check_edit_signal(load_config(["--rewards.composition", "gated", *weights]))
    with pytest.raises(ConfigError, match="change nothing"):
        check_edit_signal(load_config(weights))


def test_a_gate_takes_no_normalisation():
    with pytest.raises(ValueError, match="expected none with a gate"):
        compose([], WEIGHTS, "pooled", gate=Gate.of(GATED))
    assert Gate.of(RewardsConfig()) is None
