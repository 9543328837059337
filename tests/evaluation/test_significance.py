"""Paired tests and their correction, against scipy and against numbers done by hand."""

import numpy as np
import pytest
from scipy import stats

from evaluation.significance import holm, paired_probability, row_differences


def by_hand(probabilities):
    """Holm's procedure as it is written: reject while p_(j) <= level / (m - j); the corrected probability is the
    smallest level at which the hypothesis is rejected."""
    order = np.argsort(probabilities, kind="stable")
    m, found = len(probabilities), np.zeros(len(probabilities))
    for place, which in enumerate(order):
        needed = [(m - j) * probabilities[order[j]] for j in range(place + 1)]
        found[which] = min(1.0, max(needed))
    return found


def test_the_example_of_the_docstring():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_corrected_probabilities_are_those_of_the_procedure(seed):
    given = np.random.default_rng(seed).uniform(0, 0.2, 7)
    given[3] = given[1]  # ties
    np.testing.assert_allclose(holm(given.tolist()), by_hand(given))


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm(bad)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_the_probability_is_that_of_the_t_test(count):
    values = np.random.default_rng(count).normal(0.4, 1, count)
    assert paired_probability(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_probabilities_without_a_spread():
    assert paired_probability([3.0]) is None
    assert paired_probability([0.0, 0.0]) == 1.0 and paired_probability([2.0, 2.0]) == 0.0
    assert 0 <= paired_probability([1.0, 1.0 + 1e-12]) < 1e-9


GAINS = {
    "a": [{"x": 1.0, "y": 5.0}, {"x": 2.0, "y": 5.0}, {"x": 4.0}],
    "b": [{"x": 2.0, "y": 5.5}, {"x": 3.5, "y": 5.0}, {}],
    "c": [{"x": 9.0}, {"x": 9.5}, {"x": 12.0}],
}


def test_differences_are_paired_by_seed_and_over_the_seeds_of_both():
    found = row_differences(GAINS, [("a", "b"), ("a", "c"), (None, "a")], ["x", "y", "z"])
    assert [(one.metric, one.before, one.after, one.difference.count) for one in found] == [
        ("x", "a", "b", 2),
        ("x", "a", "c", 3),
        ("x", None, "a", 3),
        ("y", "a", "b", 2),
        ("y", None, "a", 2),
    ]
    assert found[0].difference.mean == pytest.approx(1.25) and found[1].difference.mean == pytest.approx(7.8333, 1e-4)
    expected = stats.ttest_rel([9.0, 9.5, 12.0], [1.0, 2.0, 4.0]).pvalue
    assert found[1].p == pytest.approx(expected)
    assert [one.corrected for one in found[:3]] == pytest.approx(by_hand([one.p for one in found[:3]]))
    assert [one.corrected for one in found[3:]] == pytest.approx(by_hand([one.p for one in found[3:]]))
    assert (found[1].sign, found[0].sign, found[3].sign) == (1, 0, 0)


def test_one_seed_has_a_difference_and_no_probability():
    (one,) = row_differences({"a": [{"x": 1.0}], "b": [{"x": 0.5}]}, [("a", "b")], ["x"])
    assert one.difference.mean == -0.5 and one.p is None and one.corrected is None and one.sign == 0


def test_rows_of_other_seeds_are_refused():
    with pytest.raises(ValueError):
        row_differences({"a": [{"x": 1.0}], "b": []}, [("a", "b")], ["x"])
