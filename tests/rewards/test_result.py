"""Tests of rewards.result: a score is a value or an error."""

import math

import pytest

from rewards.result import GroupScores, Score


@pytest.mark.parametrize("fields", [{}, {"value": 1.0, "error": "x"}, {"value": math.nan}, {"value": math.inf}])
def test_a_score_is_a_finite_value_or_an_error(fields):
    with pytest.raises(ValueError):
        Score(**fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_an_error_that_names_the_scorer(value):
    score = Score.of(value, "psnr")
    assert score.value is None and "psnr" in score.error


def test_zero_is_a_value():
    assert Score.of(0.0, "psnr") == Score(value=0.0)


def test_a_candidate_is_valid_when_every_component_has_a_value():
    good, bad = Score(value=0.5), Score(error="b failed")
    scores = GroupScores("g", 0, {"a": (good, good, bad), "b": (good, bad, bad)}, 0.0)
    assert scores.valid == (True, False, False)
    assert scores.errors == ("b failed",)
