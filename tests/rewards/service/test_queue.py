"""Tests of rewards.service.queue: slots and budgets are never exceeded, and no request waits indefinitely."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.service.queue import Admission, Budget
from rewards.service.refusal import Refusal


def test_places_run_out_and_come_back():
    admission = Admission(2)
    with admission.slot():
        with admission.slot():
            assert admission.taken == 2
            with pytest.raises(Refusal, match="All 2 slots") as refused, admission.slot():
                pass
            assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
        with pytest.raises(ZeroDivisionError), admission.slot():
            raise ZeroDivisionError
        assert admission.taken == 1
    assert admission.taken == 0


def test_the_time_to_come_back_follows_what_requests_took(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rewards.service.queue.monotonic", lambda: clock[0])
    admission = Admission(1)
    for _ in range(30):
        with admission.slot():
            clock[0] += 12.5
    assert admission.retry_after == 13
    for _ in range(30):
        with admission.slot():
            clock[0] += 3600
    assert admission.retry_after == 60


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 3), st.booleans()), max_size=30))
def test_a_budget_is_never_exceeded_and_everyone_is_served(requests):
    async def run() -> list[int]:
        budget, held, served = Budget(10), 0, []

        async def one(number: int, amount: int, naps: int, fails: bool) -> None:
            nonlocal held
            try:
                async with budget.hold(amount):
                    held += amount
                    assert held <= 10
                    served.append(number)
                    for _ in range(naps):
                        await asyncio.sleep(0)
                    held -= amount
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass

        async with asyncio.timeout(10):
            await asyncio.gather(*(one(number, *request) for number, request in enumerate(requests)))
            async with budget.hold(10):  # all of it has come back
                pass
        return served

    assert asyncio.run(run()) == list(range(len(requests)))


def test_who_gives_up_waiting_leaves_nothing_behind():
    async def run() -> None:
        budget = Budget(3)
        async with budget.hold(3):
            waiting = [asyncio.create_task(budget.hold(1).__aenter__()) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await waiting[1]
            async with budget.hold(2):
                pass
        with pytest.raises(ValueError, match="more than the whole budget"):
            await budget.hold(4).__aenter__()

    asyncio.run(run())
