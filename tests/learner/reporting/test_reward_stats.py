"""Step statistics against loops."""

import math
from dataclasses import replace

import numpy as np
import pytest

from configs.schema import RewardsConfig
from learner.reporting.reward_stats import REWARD, mean_and_error, paired_counts, paired_gain, reward_statistics
from rewards.result import GroupScores, Score


def group(name: str, **components: list[float | None]) -> GroupScores:
    return GroupScores(
        name,
        0,
        {
            component: tuple(Score(error="no") if v is None else Score(value=v) for v in values)
            for component, values in components.items()
        },
        0.1,
    )


def std(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


CONFIG = RewardsConfig(weights={"edit_score": 2.0, "acd": -1.0})


def test_only_candidates_that_are_whole_count():
    groups = [
        group("a", edit_score=[0.1, 0.5, 0.9, None], acd=[1.0, None, 2.0, 3.0]),
        group("b", edit_score=[0.2, 0.2, 0.7, 0.4], acd=[1.0, 1.5, 2.5, 0.5]),
    ]
    got = reward_statistics(groups, CONFIG)
    edit, acd = [[0.1, 0.9], [0.2, 0.2, 0.7, 0.4]], [[1.0, 2.0], [1.0, 1.5, 2.5, 0.5]]
    reward = [[2 * e - a for e, a in zip(es, as_, strict=True)] for es, as_ in zip(edit, acd, strict=True)]
    for name, values in (("edit_score", edit), ("acd", acd), ("reward", reward)):
        everything = [v for one in values for v in one]
        assert got.mean[name] == pytest.approx(sum(everything) / len(everything))
        assert got.std[name] == pytest.approx((std(values[0]) + std(values[1])) / 2)
    assert got.zero_std_share == 0


def test_zero_variance_groups_are_counted_in_spite_of_rounding():
    flat = group("a", edit_score=[0.1 + 0.2, 0.3, 0.3], acd=[0.0, 0.0, 0.0])
    zero = group("b", edit_score=[0.0, 0.0, 0.0], acd=[0.0, 0.0, 0.0])
    varied = group("c", edit_score=[0.3, 0.31, 0.3], acd=[0.0, 0.0, 0.0])
    assert reward_statistics([flat, zero, varied, varied], CONFIG).zero_std_share == 0.5


def test_given_images_teach_whatever_their_ranks_are():
    alone = RewardsConfig(weights={"rank": 1.0})
    got = reward_statistics([group("a", rank=[1.0]), group("b", rank=[1.0])], alone)
    assert (got.mean["rank"], got.zero_std_share, got.edit_zero_variance_share) == (1.0, 0.0, 0.0)


def test_with_credit_per_region_a_group_teaches_something_if_any_region_does():
    config = RewardsConfig(weights={"edit_score": 1.0, "background_psnr": 1.0})
    background = group("a", edit_score=[0.5, 0.5, 0.5], background_psnr=[30.0, 28.0, 29.0])
    nothing = group("b", edit_score=[0.5, 0.5, 0.5], background_psnr=[30.0, 30.0, 30.0])
    cancelled = group("c", edit_score=[0.3, 0.5, 0.4], background_psnr=[30.0, 29.8, 29.9])
    groups = [background, nothing, cancelled]
    # Together, the last one's rewards are all alike, and the first one's vary in the background alone.
    assert reward_statistics(groups, config).zero_std_share == 1
    assert reward_statistics(groups, config, by_region=True).zero_std_share == pytest.approx(1 / 3)


def test_groups_below_min_std_count_as_flat_and_silent_components_are_named():
    groups = [group("a", edit_score=[0.1, 0.2], acd=[1.0, 1.0]), group("b", edit_score=[0.1, 0.9], acd=[1.0, 1.0])]
    assert reward_statistics(groups, CONFIG).zero_std_share == 0
    filtered = RewardsConfig(weights=CONFIG.weights, min_std=0.2)  # the spreads are 0.1 and 0.8
    assert reward_statistics(groups, filtered).zero_std_share == 0.5
    assert reward_statistics(groups, CONFIG).silent == ()
    assert reward_statistics(groups, RewardsConfig(weights=CONFIG.weights, normalisation="pooled")).silent == ("acd",)
    assert reward_statistics(groups, CONFIG).floored == {}
    high = RewardsConfig(weights=CONFIG.weights, floors={"edit_score": 0.1, "acd": 0.1})  # the spreads are .05 and .4
    assert reward_statistics(groups, high).floored == {"edit_score": 1}


JUDGED = {"editscore": 1.0, "background_psnr": 0.25, "acd": 0.25}
SERVED = {"editscore": {"urls": ["http://127.0.0.1:8000/v1"]}}


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("told_apart", [0, 6])
def test_groups_whose_edit_nobody_tells_apart_teach_nothing(normalisation, noise, told_apart):
    """A judge that always says .6, or that with its noise, beside a background and attention that vary."""
    rng = np.random.default_rng(0)
    groups = [
        group(
            str(i),
            editscore=(0.6 + (0.1 if i < told_apart else noise) * rng.standard_normal(12)).tolist(),
            background_psnr=(28 + 0.1 * rng.standard_normal(12)).tolist(),
            acd=(1.5 + 0.05 * rng.standard_normal(12)).tolist(),
        )
        for i in range(24)
    ]
    got = reward_statistics(groups, RewardsConfig(weights=JUDGED, judge=SERVED, normalisation=normalisation))
    assert got.edit_zero_variance_share == got.zero_std_share == (24 - told_apart) / 24


def test_what_rewards_the_edit_is_said_by_the_kind_of_a_component():
    groups = [group("a", mine=[0.5, 0.5], acd=[1.0, 2.0]), group("b", mine=[0.1, 0.9], acd=[1.0, 2.0])]
    mine = {"scorers": {"mine": "my_scorers:mine"}, "weights": {"mine": 1.0, "acd": 1.0}}
    edit = reward_statistics(groups, RewardsConfig(**mine))
    assert edit.edit_zero_variance_share == edit.zero_std_share == 0.5
    for without in (RewardsConfig(**mine, scorer_kinds={"mine": "preservation"}), RewardsConfig(weights={"acd": 1.0})):
        kept = reward_statistics(groups, without)
        assert kept.edit_zero_variance_share == kept.zero_std_share == 0


def test_mean_and_standard_error_over_the_rows_that_have_the_metric():
    mean, error = mean_and_error([{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0}])
    assert mean == {"a": 3.0, "b": 5.0}
    assert error == {"a": pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))}


def test_the_gain_is_paired():
    base, final = [{"a": 1.0}, {"a": 10.0}, {"a": 3.0, "b": 1.0}], [{"a": 2.0}, {"a": 11.5}, {"a": 4.0}]
    mean, error = paired_gain(base, final)
    assert mean == {"a": pytest.approx(3.5 / 3)} and error["a"] == pytest.approx(1 / 6)
    assert paired_counts(base, final) == {"a": 3}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_gain(base, final[:2])


def test_diagnostics_are_watched_and_change_nothing():
    rewarded = GroupScores("0", 0, {"edit_psnr": (Score(value=1.0), Score(value=3.0), Score(error="no"))}, 0.0)
    watched = replace(
        rewarded,
        diagnostics={"background_psnr": (Score(value=20.0), Score(error="nothing is kept"), Score(value=99.0))},
    )
    config = RewardsConfig(weights={"edit_psnr": 1.0})
    without, both = reward_statistics([rewarded] * 2, config), reward_statistics([watched, rewarded], config)
    # The last candidate is not valid, so it is not among them.
    assert both.mean["background_psnr"] == 20.0 and "background_psnr" not in without.mean
    for name in ("edit_psnr", REWARD):
        assert (both.mean[name], both.std[name]) == (without.mean[name], without.std[name])
