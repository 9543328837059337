"""When a restart follows a loss, and when no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locus.common.restarts import RestartPolicy


@given(st.integers(1, 300), st.floats(0.01, 100), st.floats(0.01, 1000))
def test_delays_double_up_to_the_longest(losses, first, longest):
    policy = RestartPolicy(5, first, longest)
    assert policy.delay(losses) <= longest
    assert policy.delay(losses + 1) in (longest, 2 * policy.delay(losses))
    assert policy.delay(1) == min(first, longest)


@pytest.mark.parametrize(("restarts", "given_up"), [(0, [1, 2, 3]), (2, [3]), (None, [])])
def test_so_many_losses_in_a_row_are_followed_by_a_restart(restarts, given_up):
    assert [losses for losses in (1, 2, 3) if RestartPolicy(restarts).gives_up(losses)] == given_up


def test_what_had_settled_begins_a_new_row():
    policy = RestartPolicy(3, settled=600.0)
    assert [policy.row(4, lasted) for lasted in (0.0, 599.0, 600.0, 1e9)] == [5, 5, 1, 1]
    assert RestartPolicy(3).row(4, 1e9) == 5
