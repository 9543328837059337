"""No lease is settled twice, and the sums hold after any sequence of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.trajectory import Lease
from learner.scheduling.ledger import Ledger, LedgerError


def lease(number: int, attempt: int = 0) -> Lease:
    return Lease(0, number, number, attempt, number, 0)


CALLS = ("lease", "deliver", "mark_trained", "reject", "requeue")


@given(st.lists(st.tuples(st.sampled_from(CALLS), st.integers(0, 3))))
def test_the_counters_agree_with_a_table_of_states(calls):
    ledger, table = Ledger(), {}
    allowed = {
        "lease": (None, "out"),
        "deliver": ("out", "in"),
        "mark_trained": ("in", "trained"),
        "reject": ("in", "rejected"),
        "requeue": ("out", "requeued"),
    }
    for call, number in calls:
        before, after = allowed[call]
        if table.get(number) == before:
            getattr(ledger, call)(lease(number))
            table[number] = after
        else:
            with pytest.raises(LedgerError):
                getattr(ledger, call)(lease(number))
        assert ledger.awaits(lease(number)) == (table.get(number) == "out")
        counters, states = ledger.balance(), list(table.values())
        assert counters.leased == len(states)
        assert (counters.trained, counters.rejected, counters.requeued) == tuple(
            states.count(s) for s in ("trained", "rejected", "requeued")
        )
        assert counters.in_flight == states.count("out") + states.count("in")


def test_another_lease_with_the_same_id_is_not_awaited():
    ledger = Ledger()
    ledger.lease(lease(1))
    changed = Lease(0, 1, 1, 0, seed=2, policy_version=0)
    assert ledger.awaits(lease(1)) and not ledger.awaits(changed)
    with pytest.raises(LedgerError, match="not in flight"):
        ledger.requeue(changed)


def test_books_that_do_not_balance_are_noticed():
    ledger = Ledger()
    ledger.lease(lease(1))
    ledger._leased += 1
    with pytest.raises(LedgerError, match="does not hold"):
        ledger.balance()
