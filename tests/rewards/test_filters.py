"""Which groups the filters leave out, against plain Python."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import load_config
from configs.rewards import RewardsConfig
from rewards.compose import composed
from rewards.filters import Filters, varies
from tests.rewards.test_compose import scored

values = st.lists(st.integers(-1000, 1000).map(lambda n: n / 100), min_size=0, max_size=6)
bounds = st.integers(0, 1000).map(lambda n: n / 100 + 0.005003)


@given(values, bounds, bounds, bounds)
def test_the_first_reason_that_holds_is_told(rewards, min_std, min_range, max_mean):
    got = Filters(min_std, min_range, max_mean - 5).reason(np.array(rewards))
    expected = None
    if len(set(rewards)) > 1:
        if statistics.pstdev(rewards) < min_std:
            expected = "std"
        elif max(rewards) - min(rewards) < min_range:
            expected = "range"
        elif statistics.fmean(rewards) > max_mean - 5:
            expected = "mean"
    assert got == expected


def test_a_group_at_a_bound_is_kept():
    rewards = np.array([0.25, 0.5, 0.75])
    assert Filters(min_range=0.5).reason(rewards) is None and Filters(min_range=0.50001).reason(rewards) == "range"
    assert Filters(max_mean=0.5).reason(rewards) is None and Filters(max_mean=0.49999).reason(rewards) == "mean"


def test_by_default_nothing_is_left_out():
    assert Filters().reason(np.array([1e-9, 1e9])) is None


def test_what_does_not_vary_is_no_matter_of_filters():
    for rewards in ([], [3.0], [0.1 + 0.2, 0.3], [0.0, 0.0]):
        assert Filters(1.0, 1.0, -1.0).reason(np.array(rewards)) is None and not varies(np.array(rewards))
    assert varies(np.array([1e-200, 2e-200]))


def test_groups_are_filtered_by_the_valid_candidates_of_the_combined_reward():
    config = RewardsConfig(
        weights={"editscore_truth": 2.0}, min_std=0.02, min_range=0.3, max_mean=1.7, floors={"editscore_truth": 0.0}
    )
    rows = ([0.5, 0.505, None], [0.5, 0.6, None], [0.5, 0.7, None], [0.75, 0.96, None], [0.5, 0.5, None])
    found = composed([scored({"editscore_truth": row}) for row in rows], config)
    assert [reward.filter for reward in found] == ["std", "range", None, "mean", None]
    assert [reward.filtered for reward in found] == [True, True, False, True, False]


def test_a_mean_that_normalisation_takes_away_has_no_bound():
    with pytest.raises(ConfigError, match=r"rewards\.max_mean: expected rewards\.normalisation none"):
        load_config(["--rewards.max_mean", "0.9", "--rewards.normalisation", "pooled"])
    assert load_config(["--rewards.max_mean", "0.9"]).rewards.max_mean == 0.9
