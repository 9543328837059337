"""Percentiles of the newest responses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rewards.judge.statistics import LATENCIES, Tally, percentile


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_percentile_is_the_inverted_distribution(values, share):
    assert percentile(values, share) == np.quantile(values, share, method="inverted_cdf")


def test_there_is_no_percentile_of_nothing():
    assert percentile([], 0.5) is None


def test_only_the_newest_responses_count():
    tally = Tally()
    tally.seconds.extend([100.0] * 50 + [1.0] * LATENCIES)
    found = tally.statistics(in_rotation=2)
    assert (found.p50_seconds, found.p95_seconds, found.in_rotation) == (1.0, 1.0, 2)
