"""Tests of rewards.result: a score is a value or an error."""

import math

import pytest

from rewards.result import LARGEST_SCORE, GroupScores, Score


@pytest.mark.parametrize(
    "fields",
    [{}, {"value": 1.0, "error": "x"}, {"value": math.nan}, {"value": math.inf}, {"value": 1e300}, {"value": -1e10}],
)
def test_a_score_is_a_finite_value_of_bounded_size_or_an_error(fields):
    with pytest.raises(ValueError):
        Score(**fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_an_error_that_names_the_scorer(value):
    score = Score.of(value, "psnr")
    assert score.value is None and "psnr" in score.error


@pytest.mark.parametrize("value", [1.1e9, -1e160, 1e300, -1.7e308])
def test_a_number_too_large_to_sum_and_square_becomes_an_error_that_names_the_scorer(value):
    score = Score.of(value, "mine (m:f): candidate 1")
    assert score.value is None and score.reason == "too_large"
    assert score.error.startswith("mine (m:f): candidate 1: expected a number from -1e+09 to 1e+09, got ")


@pytest.mark.parametrize("value", [0.0, LARGEST_SCORE, -LARGEST_SCORE, 5e-324])
def test_what_is_no_larger_is_a_value(value):
    assert Score.of(value, "psnr") == Score(value=value)


def test_a_candidate_is_valid_when_every_component_has_a_value():
    good, bad = Score(value=0.5), Score(error="b failed")
    scores = GroupScores("g", 0, {"a": (good, good, bad), "b": (good, bad, bad)}, 0.0)
    assert scores.valid == (True, False, False)
    assert scores.errors == ("b failed",)
