"""The two failure limits, against the plain definition of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judge.limits import WINDOW, FailureLimits
from rewards.judge.messages import JudgesDown


@given(st.integers(1, 6), st.lists(st.booleans(), max_size=60))
def test_requests_in_a_row_without_a_response(limit, responses):
    limits = FailureLimits("editscore", limit, 0.25)
    row = 0
    for answered in responses:
        row = 0 if answered else row + 1
        if answered:
            limits.answered()
        elif row < limit:
            limits.unanswered("reset")
        else:
            with pytest.raises(JudgesDown, match=f"{row} requests in a row .*max_unanswered is {limit}.*reset"):
                limits.unanswered("reset")


@given(st.floats(0.01, 1.0), st.lists(st.integers(0, 9).map(lambda n: n > 2), max_size=3 * WINDOW))
def test_share_of_bad_responses_in_the_window(share, usable):
    limits = FailureLimits("editscore", 8, share)
    for i, good in enumerate(usable):
        bad = usable[max(0, i + 1 - WINDOW) : i + 1].count(False)
        if not good and bad > share * WINDOW:
            with pytest.raises(JudgesDown, match="max_bad_answers"):
                limits.noted(good)
        else:
            limits.noted(good)


def test_a_quarter_of_the_window_is_allowed_and_one_more_is_not():
    limits = FailureLimits("qwen_vl", 8, 0.25)
    for _ in range(50):
        limits.noted(False)
    with pytest.raises(JudgesDown, match=r"qwen_vl: 51 of the last 51 responses .*25% of 200.*no digit"):
        limits.noted(False, "no digit")


def test_bad_responses_are_forgotten_with_the_window():
    limits = FailureLimits("qwen_vl", 8, 0.25)
    for _ in range(20):
        for _ in range(10):
            limits.noted(False)
        for _ in range(WINDOW):
            limits.noted(True)
