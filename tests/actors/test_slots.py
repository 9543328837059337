"""A fleet's worker slots without Ray: whatever happens, restarts are bounded and spaced, and no job is lost."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.slots import Slots, Worker
from editing.weights import WeightProof
from locus.common.restarts import RestartPolicy


def proof(version):
    return WeightProof(version, f"sha-{version}", 3)


def filled(slots, now=0.0):
    for slot in slots.due(now):
        slot.worker = Worker(f"handle {slot.number}", now)
    return slots.workers()


def test_a_crash_loop_beside_a_healthy_worker_ends_at_the_cap():
    slots, now, starts = Slots(2, RestartPolicy(3), 1, 0.0), 0.0, 1
    healthy, bad = filled(slots)
    delays = []
    while True:
        slots.give(healthy, "job", now)
        slots.settle(healthy, "job", now)
        slots.succeed(healthy)  # proves nothing about the other
        loss = slots.lose(bad, now)
        if loss.again_in is None:
            break
        delays.append(loss.again_in)
        assert slots.due(now + loss.again_in - 0.01) == []
        now += loss.again_in
        (slot,) = slots.due(now)
        bad = slot.worker = Worker("again", now)
        starts += 1
    assert (starts, delays) == (4, [1.0, 2.0, 4.0])
    assert slots.left() == 1 and not slots.too_few() and slots.due(1e9) == []
    slots.resize(2, now)  # asked for again: the slot is tried again, from the beginning
    assert [slot.losses for slot in slots.due(now)] == [0] and slots.left() == 2


def test_the_floor_counts_slots_that_were_given_up_and_no_others():
    slots = Slots(3, RestartPolicy(0), 2, 0.0)
    first, second, third = filled(slots)
    slots.resize(2, 0.0)  # one drains, which is no failure
    assert not slots.too_few()
    slots.lose(next(worker for worker in (first, second) if not slots.slot_of(worker).draining), 0.0)
    assert slots.too_few() and slots.left() == 1
    assert third not in slots.ready(proof(1))


def test_draining_takes_empty_slots_first_then_those_that_start_then_the_idle_and_can_be_taken_back():
    slots = Slots(4, RestartPolicy(3), 1, 0.0)
    busy, idle, starting, dead = filled(slots)
    slots.lose(dead, 0.0)
    busy.pid, busy.held, idle.pid, idle.held = 1, proof(7), 2, proof(7)
    slots.give(busy, "a", 0.0)
    slots.resize(3, 0.0)
    assert slots.workers() == [busy, idle, starting] and slots.due(100.0) == []
    slots.resize(1, 0.0)
    assert slots.ready(proof(7)) == [busy]
    slots.resize(2, 0.0)
    assert len(slots.all()) == 3 and slots.left() == 2  # one of them was taken back: no replacement
    slots.resize(1, 0.0)
    assert set(slots.drained()) == {idle, starting} and slots.workers() == [busy]


class FleetMachine(RuleBasedStateMachine):
    """Any order of deaths, resizes, jobs and time."""

    @initialize(desired=st.integers(1, 4), restarts=st.integers(0, 3), floor=st.integers(1, 2))
    def begin(self, desired, restarts, floor):
        self.now, self.version, self.made = 0.0, 1, 0
        self.slots = Slots(desired, RestartPolicy(restarts, 1.0, 8.0), floor, self.now)
        self.ends: dict[int, str] = {}  # jobs that have an end
        self.starts: dict[int, int] = {}  # by slot: since its last finished job
        self.again_in: dict[int, float] = {}
        self.may_start: dict[int, float] = {}

    def some(self, data, workers):
        return data.draw(st.sampled_from(workers))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 4.0, 100.0]))
    def time_goes_on(self, seconds):
        self.now += seconds

    @rule()
    def start_all_that_are_due(self):
        for slot in self.slots.due(self.now):
            assert self.now >= self.may_start.get(slot.number, 0.0) and slot.worker is None and not slot.given_up
            slot.worker = Worker(object(), self.now)
            self.starts[slot.number] = self.starts.get(slot.number, 0) + 1

    @precondition(lambda self: self.slots.workers())
    @rule(data=st.data())
    def prove(self, data):
        worker = self.some(data, self.slots.workers())
        worker.pid, worker.held = 1, proof(self.version)

    @rule()
    def publish(self):
        self.version += 1

    @precondition(lambda self: self.slots.ready(proof(self.version)))
    @rule(data=st.data())
    def give(self, data):
        worker = self.some(data, self.slots.ready(proof(self.version)))
        assert not self.slots.slot_of(worker).draining and worker.held == proof(self.version)
        self.slots.give(worker, self.made, self.now)
        self.made += 1

    @precondition(lambda self: any(worker.jobs for worker in self.slots.workers()))
    @rule(data=st.data(), well=st.booleans())
    def response(self, data, well):
        worker = self.some(data, [worker for worker in self.slots.workers() if worker.jobs])
        job = worker.jobs[0]
        self.slots.settle(worker, job, self.now)
        assert job not in self.ends
        self.ends[job] = "done" if well else "failed"
        if well:
            self.slots.succeed(worker)
            number = self.slots.slot_of(worker).number
            self.starts[number] = 0
            self.again_in.pop(number, None)

    @precondition(lambda self: self.slots.workers())
    @rule(data=st.data())
    def lose(self, data):
        worker = self.some(data, self.slots.workers())
        slot, jobs = self.slots.slot_of(worker), list(worker.jobs)
        draining = slot.draining
        loss = self.slots.lose(worker, self.now)
        assert list(loss.jobs) == jobs and not set(jobs) & set(self.ends) and worker.jobs == []
        self.ends.update(dict.fromkeys(jobs, "lost"))
        assert self.slots.slot_of(worker) is None
        if draining or slot.given_up:
            assert loss.again_in is None
        else:
            before = self.again_in.get(slot.number, 0.0)
            assert loss.again_in == min(8.0, 2 * before if before else 1.0)  # it grows
            self.again_in[slot.number], self.may_start[slot.number] = loss.again_in, self.now + loss.again_in

    @rule(desired=st.integers(1, 5))
    def resize(self, desired):
        self.slots.resize(desired, self.now)
        assert self.slots.desired == self.slots.left() == desired

    @rule()
    def end_drained(self):
        for worker in self.slots.drained():
            assert worker.jobs == [] and self.slots.slot_of(worker) is None

    @invariant()
    def no_job_is_lost_or_held_twice(self):
        if not hasattr(self, "slots"):
            return
        held = [job for worker in self.slots.workers() for job in worker.jobs]
        assert sorted([*held, *self.ends]) == list(range(self.made))

    @invariant()
    def the_number_of_places_is_the_desired_one(self):
        if not hasattr(self, "slots"):
            return
        given_up = sum(slot.given_up for slot in self.slots.all())
        assert self.slots.left() + given_up == self.slots.desired
        assert self.slots.too_few() == (self.slots.left() < min(self.slots.floor, self.slots.desired))
        numbers = [slot.number for slot in self.slots.all()]
        assert len(set(numbers)) == len(numbers)

    @invariant()
    def no_place_restarts_more_often_than_the_cap(self):
        if hasattr(self, "slots"):
            assert all(starts <= 1 + self.slots.policy.restarts for starts in self.starts.values())

    def teardown(self):
        """Left alone with healthy workers, every slot that was not given up fills, and what drains goes."""
        if not hasattr(self, "slots"):
            return
        self.now += 1000.0
        self.start_all_that_are_due()
        for worker in self.slots.workers():
            for job in list(worker.jobs):
                self.slots.settle(worker, job, self.now)
                self.ends[job] = "done"
        self.end_drained()
        assert len(self.slots.workers()) == self.slots.left()
        assert sorted(self.ends) == list(range(self.made))


TestFleetMachine = FleetMachine.TestCase


def test_a_worker_that_is_in_no_place_cannot_be_lost():
    with pytest.raises(ValueError, match="holds no slot"):
        Slots(1, RestartPolicy(1), 1, 0.0).lose(Worker("stranger", 0.0), 0.0)
