"""Leases are a function of seed and step."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.scheduling.sampler import LeaseSampler, at_version


@given(seed=st.integers(0, 2**31), tasks=st.integers(1, 30), groups=st.integers(1, 9))
def test_every_epoch_visits_every_task_once_in_another_order(seed, tasks, groups):
    sampler = LeaseSampler(seed, tasks, groups)
    steps = -(-3 * tasks // groups)
    visited = [lease.task_index for step in range(steps) for lease in sampler.leases(step, 0)][: 3 * tasks]
    for epoch in range(3):
        assert Counter(visited[epoch * tasks : (epoch + 1) * tasks]) == Counter(range(tasks))
    if tasks >= 10:
        assert visited[:tasks] != visited[tasks : 2 * tasks]


def test_the_order_is_drawn_from_the_seed_and_not_sorted():
    orders = [[lease.task_index for lease in LeaseSampler(seed, 100, 100).leases(0, 0)] for seed in range(5)]
    assert all(order != sorted(order) for order in orders)
    assert len(set(map(tuple, orders))) == 5


@given(step=st.integers(0, 200), version=st.integers(0, 5))
def test_a_fresh_sampler_goes_on_where_another_stopped(step, version):
    used = LeaseSampler(3, 17, 5)
    for earlier in range(step):
        used.leases(earlier, 0)
    assert used.leases(step, version) == LeaseSampler(3, 17, 5).leases(step, version)


def test_seeds_and_ids_never_repeat_and_do_not_depend_on_the_version():
    sampler = LeaseSampler(0, 6, 4)
    leases = [lease for step in range(12) for lease in sampler.leases(step, 0)]
    leases += [sampler.redraw(lease, 0) for lease in leases]
    assert len({lease.seed for lease in leases}) == len({lease.group_id for lease in leases}) == len(leases) == 96
    assert [lease.seed for lease in sampler.leases(5, 0)] == [lease.seed for lease in sampler.leases(5, 4)]


def test_a_retry_keeps_its_place_and_is_drawn_anew():
    first = LeaseSampler(0, 6, 4).leases(2, 1)[3]
    second = LeaseSampler(0, 6, 4).redraw(first, 2)
    assert (second.step, second.slot, second.task_index, second.attempt) == (2, 3, first.task_index, 1)
    assert second.seed != first.seed and second.policy_version == 2
    assert at_version(first, 2).seed == first.seed and at_version(first, 2).policy_version == 2


def test_a_lost_group_is_made_again_with_its_noise():
    first = LeaseSampler(0, 6, 4).leases(2, 1)[3]
    second = LeaseSampler(0, 6, 4).repeat(first, 2)
    assert second.group_id != first.group_id and second.policy_version == 2
    assert (second.seed, second.task_index, second.attempt) == (first.seed, first.task_index, 1)


@pytest.mark.parametrize(("tasks", "groups"), [(0, 1), (1, 0)])
def test_nothing_to_sample_is_refused(tasks, groups):
    with pytest.raises(ValueError, match="at least one training task and one group"):
        LeaseSampler(0, tasks, groups)
