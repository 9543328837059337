"""How delays grow."""

from hypothesis import given
from hypothesis import strategies as st

from locus.common.backoff import backoff, jittered_backoff


def test_a_delay_doubles_up_to_the_longest():
    assert [backoff(failures, 1.0, 60.0) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(1, 5.0, 2.0) == 2.0


@given(st.integers(1, 10_000), st.floats(0.1, 100), st.floats(100, 1000))
def test_a_delay_is_a_number_however_many_failures(failures, first, longest):
    assert 0 < backoff(failures, first, longest) <= backoff(failures + 1, first, longest) <= longest


@given(st.integers(1, 5000), st.floats(0.01, 5), st.floats(0.01, 60))
def test_a_jittered_delay_is_between_half_and_all_of_the_doubled_one(failures, first, longest):
    whole = min(longest, first * 2.0 ** min(failures - 1, 64))
    assert whole / 2 <= jittered_backoff(failures, first, longest) <= whole


def test_requests_that_fail_together_do_not_come_back_together():
    assert len({jittered_backoff(3, 0.25, 8.0) for _ in range(20)}) > 10
