import math
import re

import numpy as np
import pytest
import torch

from rewards.plugin.values import checked
from rewards.result import Score


def values(scores):
    return [one.value for one in scores]


def without_address(value: object) -> str:
    """A name that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize(
    "returned",
    [
        [0, 1.5, -2],
        (0, 1.5, -2),
        np.array([0, 1.5, -2]),
        np.array([0, 1.5, -2], dtype=np.float32),
        torch.tensor([0, 1.5, -2], requires_grad=True),
        torch.tensor([0, 1.5, -2], dtype=torch.bfloat16),
        [np.float64(0), torch.tensor(1.5), np.array(-2)],
        [Score(value=0.0), 1.5, np.int8(-2)],
    ],
)
def test_numbers_of_all_kinds(returned):
    assert values(checked(returned, 3, "mine")) == [0.0, 1.5, -2.0]


@pytest.mark.parametrize(
    "returned",
    [
        None,
        0.5,
        "abc",
        b"abc",
        {"a": 1, "b": 2, "c": 3},
        {1, 2, 3},
        iter([1, 2, 3]),
        Score(value=1.0),
        [],
        [1, 2],
        [1, 2, 3, 4],
        np.array(1.0),
        np.zeros((2, 3)),
        np.zeros(4),
        torch.zeros(()),
        torch.zeros(0),
        object(),
    ],
    ids=without_address,
)
def test_another_count_or_no_list_is_an_error_for_every_candidate(returned):
    got = checked(returned, 3, "mine (m:f)")
    assert len(got) == 3
    for one in got:
        assert one.value is None and one.error.startswith("mine (m:f): expected 3 numbers, one per candidate; got ")


@pytest.mark.parametrize(
    "bad",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e160,
        1e300,
        -1e308,
        None,
        "0.5",
        True,
        np.True_,
        1j,
        [0.5],
        np.array([0.5]),
        10**400,
        {},
        np.nan,
        torch.tensor(math.nan),
    ],
    ids=lambda bad: f"{without_address(bad):.30}",
)
def test_what_is_no_finite_number_is_an_error_of_its_candidate(bad):
    got = checked([0.5, bad, 1], 3, "mine (m:f)")
    assert values(got) == [0.5, None, 1.0]
    assert got[1].error.startswith("mine (m:f): candidate 1: expected a ") and len(got[1].error) < 200


def test_a_column_of_scores_is_not_taken_for_scores():
    assert all(one.error for one in checked(np.zeros((3, 1)), 3, "mine"))


def test_an_error_that_the_scorer_gives_names_it():
    got = checked([Score(error="no face found"), 1.0], 2, "mine (m:f)")
    assert got == (Score(error="mine (m:f): candidate 0: no face found"), Score(value=1.0))
