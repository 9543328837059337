"""The formulas against scipy and against sums written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewards.offline import calibration


def anova(passes):
    """Mean squares between and within rows, by loops."""
    n, k = len(passes), len(passes[0])
    grand = sum(map(sum, passes)) / (n * k)
    means = [sum(row) / k for row in passes]
    between = k * sum((m - grand) ** 2 for m in means) / (n - 1)
    within = sum((x - m) ** 2 for row, m in zip(passes, means, strict=True) for x in row) / (n * (k - 1))
    return between, within


@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 999))
def test_noise_and_reliability_are_those_of_the_analysis_of_variance(edits, times, seed):
    rng = np.random.default_rng(seed)
    passes = rng.normal(size=(edits, 1)) + rng.normal(size=(edits, times)) * rng.uniform(0.1, 3)
    between, within = anova(passes.tolist())
    assert calibration.noise_variance(passes) == pytest.approx(within, rel=1e-12)
    icc = (between - within) / (between + (times - 1) * within)
    assert calibration.reliability(passes) == pytest.approx(icc, rel=1e-9)
    # The reliability of the mean is ICC(1,k) = (MSB - MSW) / MSB.
    if icc > 0:
        assert calibration.averaged(icc, times) == pytest.approx((between - within) / between, rel=1e-9)


def test_known_intraclass_correlation_of_shrout_and_fleiss():
    # Table 2 of Shrout and Fleiss (1979): six targets, four judges; ICC(1,1) = .17, ICC(1,4) = .44.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    single = calibration.reliability(ratings)
    assert single == pytest.approx(0.17, abs=0.005)
    assert calibration.averaged(single, 4) == pytest.approx(0.44, abs=0.005)


def test_noise_and_signal_of_a_simulated_judge_are_found():
    rng = np.random.default_rng(0)
    signal, noise, passes = 0.1, 0.15, 4
    truth = rng.normal(0.5, 0.3, size=(400, 1)) + rng.normal(0, signal, size=(400, 12))  # per source, per candidate
    responses = truth[..., None] + rng.normal(0, noise, size=(*truth.shape, passes))
    scores = responses.mean(axis=2)
    found_noise = calibration.noise_variance(responses.reshape(-1, passes))
    between = calibration.candidate_variance(list(scores))
    found = calibration.dynamic_range(between, found_noise, passes)
    assert math.sqrt(found_noise) == pytest.approx(noise, rel=0.03)
    assert found.signal == pytest.approx(signal, rel=0.03)
    assert found.snr == pytest.approx(signal / (noise / 2), rel=0.05)
    assert found.passes_needed == 9  # (2 * .15 / .1)^2


def test_at_the_wanted_ratio_85_of_100_pairs_are_in_the_right_order():
    rng = np.random.default_rng(1)
    truth = rng.normal(0, calibration.WANTED_SNR, size=(2, 200_000))
    seen = truth + rng.normal(size=truth.shape)
    right = ((truth[0] > truth[1]) == (seen[0] > seen[1])).mean()
    assert right == pytest.approx(0.5 + math.atan(calibration.WANTED_SNR) / math.pi, abs=0.005)
    assert right == pytest.approx(0.85, abs=0.01)


def test_dynamic_range_by_example():
    found = calibration.dynamic_range(0.05, 0.04, 4)
    assert found.signal == pytest.approx(0.2) and found.snr == pytest.approx(2.0) and found.passes_needed == 4
    assert calibration.dynamic_range(0.01, 0.04, 4) == calibration.DynamicRange(0.0, 0.0, None)
    assert calibration.dynamic_range(0.0, 0.0, 4) == calibration.DynamicRange(0.0, 0.0, None)
    assert calibration.dynamic_range(0.04, 0.0, 4) == calibration.DynamicRange(0.2, None, 1)
    assert calibration.dynamic_range(100.0, 1e-6, 1).passes_needed == 1


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.integers(1, 20))
def test_the_passes_needed_are_the_fewest_that_reach_the_ratio(signal, noise, passes):
    found = calibration.dynamic_range(signal**2 + noise**2 / passes, noise**2, passes)
    needed = found.passes_needed
    assert signal / (noise / math.sqrt(needed)) >= calibration.WANTED_SNR * (1 - 1e-6)
    if needed > 1:
        assert signal / (noise / math.sqrt(needed - 1)) < calibration.WANTED_SNR * (1 + 1e-6)


tied = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30)


@settings(max_examples=200)
@given(tied)
def test_rank_correlations_are_scipys(pairs):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    assert calibration.ranks(a).tolist() == stats.rankdata(a).tolist()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert calibration.spearman(a, b) is None and calibration.kendall(a, b) is None
        return
    assert calibration.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert calibration.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


@given(tied, st.integers(0, 99))
def test_the_same_order_is_counted_within_sources(pairs, seed):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    sources = np.random.default_rng(seed).integers(0, 3, len(a)).tolist()
    alike = against = 0
    for i in range(len(a)):
        for j in range(i):
            if sources[i] == sources[j] and a[i] != a[j] and b[i] != b[j]:
                same = (a[i] < a[j]) == (b[i] < b[j])
                alike, against = alike + same, against + (not same)
    found = calibration.agreement(a, b, sources)
    assert found.pairs == alike + against and found.edits == len(a)
    assert found.same_order == (alike / (alike + against) if alike + against else None)


def test_candidates_are_compared_with_those_of_their_own_source():
    groups = [np.array([0.1, 0.3]), np.array([5.0, 5.2, 5.4]), np.array([9.0]), np.array([])]
    # (.01 + .01) + (.04 + 0 + .04), over 1 + 2 degrees of freedom
    assert calibration.candidate_variance(groups) == pytest.approx(0.1 / 3)
    assert calibration.candidate_variance([np.array([1.0]), np.array([])]) is None


def test_what_cannot_be_said_is_none():
    assert calibration.noise_variance(np.ones((3, 1))) is None
    assert calibration.noise_variance(np.ones((0, 4))) is None
    assert calibration.reliability(np.ones((3, 1))) is None
    assert calibration.reliability(np.array([[1.0, 2.0]])) is None
    assert calibration.reliability(np.ones((3, 2))) is None
    assert calibration.averaged(-0.2, 4) == -0.2
    nothing = np.array([])
    assert calibration.agreement(nothing, nothing, []) == calibration.Agreement(None, None, None, 0, 0)
    with pytest.raises(ValueError, match="got 2, 2, 1"):
        calibration.agreement(np.ones(2), np.ones(2), [0])


def test_range():
    found = calibration.value_range(np.arange(101.0))
    assert found == calibration.Range(mean=50.0, low=0.0, p5=5.0, p95=95.0, high=100.0)
