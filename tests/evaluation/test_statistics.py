"""Student-t intervals and medians against scipy and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.statistics import (
    Comparison,
    Interval,
    compare,
    paired_ratios,
    spread,
    student_interval,
    student_probability,
    student_quantile,
)

numbers = st.floats(-1e3, 1e3)


@given(st.floats(0, 200), st.integers(1, 60))
def test_the_probability_is_scipy_s(t, degrees):
    # Near t = 0 it is scipy that is off, by 2e-9.
    assert student_probability(t, degrees) == pytest.approx(1 - 2 * stats.t.sf(t, degrees), abs=1e-8)


@given(st.floats(0.01, 0.999), st.integers(1, 40))
def test_the_quantile_is_scipy_s(confidence, degrees):
    assert student_quantile(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-8)


@given(st.lists(numbers, min_size=2, max_size=9), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_scipy_s(values, confidence):
    found = student_interval(values, confidence)
    scale = max(1.0, *map(abs, values))
    deviation = np.std(values, ddof=1)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9 * scale)
    assert found.half_width == pytest.approx(
        stats.t.ppf((1 + confidence) / 2, len(values) - 1) * deviation / math.sqrt(len(values)), abs=1e-7 * scale
    )
    assert found.low == pytest.approx(2 * found.mean - found.high, abs=1e-9 * scale)


def test_three_seeds_by_hand():
    # s = 1, t = 4.302653: 2 ± 4.302653 / sqrt(3).
    found = student_interval([1, 2, 3])
    assert (found.mean, found.count) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(0.1, 2, 1), (-2, -0.1, -1), (-1, 1, 0), (0.0, 1, 0), (-1, 0.0, 0), (None, None, 0)]
)
def test_an_interval_s_sign(low, high, sign):
    assert Interval(1.0, low, high, 3).sign == sign


def test_one_seed_has_a_mean_and_no_interval():
    found = student_interval([3.5])
    assert (found.mean, found.low, found.high, found.half_width, found.sign) == (3.5, None, None, None, 0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_or_broken_values_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        student_interval(values)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_parameters_out_of_range_are_refused(confidence, degrees):
    with pytest.raises(ValueError, match="expected"):
        student_quantile(confidence, degrees)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6))
def test_the_difference_is_paired_by_seed(pairs):
    found = compare([{"m": a} for a, _ in pairs], [{"m": b, "n": 1.0} for _, b in pairs], ["m"])["m"]
    assert found.base == pytest.approx(np.mean([a for a, _ in pairs]), abs=1e-9)
    assert found.final == pytest.approx(np.mean([b for _, b in pairs]), abs=1e-9)
    assert found.difference == student_interval([b - a for a, b in pairs])


def test_a_paired_gain_is_seen_where_the_levels_differ_more_than_it():
    base, final = [{"m": 1.0}, {"m": 5.0}, {"m": 9.0}], [{"m": 1.5}, {"m": 5.6}, {"m": 9.4}]
    assert compare(base, final, ["m"])["m"].difference.sign == 1
    assert student_interval([row["m"] for row in final]).sign == 0


def test_metrics_nobody_has_are_left_out_and_others_are_over_the_seeds_that_have_them():
    rows = [{"m": 1.0}, {"m": 2.0}]
    assert list(compare(rows, rows, ["x", "m"])) == ["m"]
    assert compare(rows, [{}, {}], ["m"]) == compare([{}, {}], rows, ["m"]) == {}
    found = compare([*rows, {}], [{"m": 1.5}, {}, {"m": 9.0}], ["m"])["m"]
    assert found == Comparison(1.0, 1.5, Interval(0.5, None, None, 1))
    with pytest.raises(ValueError, match="shorter"):
        compare(rows, rows[:1], ["m"])


@given(st.lists(numbers, min_size=1, max_size=12))
def test_medians_and_quartiles_are_numpy_s(values):
    found = spread(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75])
    assert (found.low, found.median, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.count == len(values)


def test_ratios_are_taken_pair_by_pair():
    # The machine was ten times slower during the second pair: the ratio does not care.
    assert paired_ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).median == 2.0
    with pytest.raises(ValueError, match="at least one"):
        spread([])
