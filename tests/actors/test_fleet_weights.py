"""The fleet with workers that only pretend: which weights a worker holds, and what becomes of one that does not."""

import pytest

from actors.fleet import FleetError, WrongWeights
from actors.worker import WrongVersion

pytestmark = pytest.mark.ray


def test_new_weights_wait_for_the_job_that_runs(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.submit("old", seconds=0.5)
    stage.publish(2)
    assert stage.fleet.capacity() == 0
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.submit("new")
    stage.until(lambda: len(stage.done) == 2)
    assert [small[:3] for small, _ in stage.done] == [("old", 1, 1), ("new", 2, 2)]


def test_other_weights_of_the_same_version_are_proved_again(scene):
    """As for a measurement of their running mean, in the middle of a step."""
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.publish(1, fingerprint="the mean")
    assert stage.fleet.capacity() == 0
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.publish(1)
    assert stage.fleet.capacity() == 0
    stage.until(lambda: stage.fleet.capacity() > 0)
    assert stage.named("weights_repushed") == []


def test_a_worker_that_hangs_over_new_weights_is_replaced_by_one_that_takes_them(scene):
    stage = scene(groups_in_flight=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 2)
    stage.limit(3.0)
    victim = stage.fleet.pids()[0]
    stage.publish(2, hangs=victim)
    stage.until(lambda: stage.fleet.capacity() == 2)
    (lost,) = stage.named("worker_lost")
    assert (lost["pid"], lost["jobs"], lost["again_in"]) == (victim, 0, 0.2)
    assert lost["reason"] == "no response within 3 s (cluster.group_timeout)"
    assert [started["version"] for started in stage.named("worker_started")] == [1, 1, 2]


@pytest.mark.parametrize("how", ["lies", "dropped", "refused"])
def test_weights_that_did_not_arrive_are_sent_again(scene, how):
    stage = scene()
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim = stage.fleet.pids()[0]
    stage.publish(2, bad={victim: 1}, how=how)
    stage.until(lambda: stage.fleet.capacity() == 4)
    (again,) = stage.named("weights_repushed")
    assert (again["pid"], again["version"]) == (victim, 2)
    said = {"lies": "fingerprint='lies'", "dropped": "version=1", "refused": "the shapes differ"}
    assert said[how] in again["reason"]
    assert stage.named("worker_lost") == [] and victim in stage.fleet.pids()


def test_a_worker_that_twice_does_not_take_weights_over_is_replaced(scene):
    stage = scene()
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim = stage.fleet.pids()[0]
    stage.publish(2, bad={victim: 99}, how="refused")
    stage.until(lambda: stage.named("worker_lost") and stage.fleet.capacity() == 4)
    assert len(stage.named("weights_repushed")) == 1
    (lost,) = stage.named("worker_lost")
    assert lost["pid"] == victim and "wrong weights, after they were sent again" in lost["reason"]
    assert "the shapes differ" in lost["reason"] and victim not in stage.fleet.pids()
    assert [started["version"] for started in stage.named("worker_started")] == [1, 1, 2]


@pytest.mark.parametrize(("how", "reason"), [("lies", "fingerprint='lies'"), ("refused", "the shapes differ")])
def test_fresh_workers_that_do_not_take_weights_over_stop_everything(scene, how, reason):
    stage = scene(rollout_workers=1)
    stage.publish(1, all_bad=99, how=how)
    with pytest.raises(WrongWeights, match=f"just started did not take over .*, twice: .*{reason}"):
        stage.until(lambda: False)
    assert len(stage.named("weights_repushed")) == 1 and stage.fleet.capacity() == 0


def test_weights_that_nobody_has_any_more_are_no_fault_of_workers(scene):
    """As when the node that held them died: Ray raises this in the place of the call."""
    stage = scene(rollout_workers=1)
    stage.publish(1, all_bad=99, how="gone")
    with pytest.raises(FleetError, match="The published weights are gone with the node that held them") as caught:
        stage.until(lambda: False)
    assert caught.value.__cause__ is None and len(stage.named("weights_repushed")) == 1


def test_a_worker_that_works_with_other_weights_than_it_proved_gets_them_again_and_then_goes(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    (victim,) = stage.fleet.pids()
    for _ in range(2):
        for _ in range(2):  # one push that went astray fails every job in line, and counts once
            stage.submit("late", method="fail", arguments=(WrongVersion("it holds 0"),))
        stage.until(lambda: len(stage.failed) == 2)
        # The second time the worker goes with the first failure, and takes along the job behind it.
        assert all("WrongVersion: it holds 0" in stage.failed.pop()[1] for _ in range(2))
        stage.until(lambda: stage.fleet.capacity() > 0)
    assert len(stage.named("weights_repushed")) == 1
    assert [lost["pid"] for lost in stage.named("worker_lost")] == [victim] and victim not in stage.fleet.pids()


def test_a_finished_job_forgives_weights_that_went_astray(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    (pid,) = stage.fleet.pids()
    for version in (2, 3):
        stage.publish(version, bad={pid: 1}, how="dropped")
        stage.until(lambda: stage.fleet.capacity() > 0)
        stage.submit("works")
        stage.until(lambda: stage.done)
        assert stage.done.pop()[0][1:] == (version, version, pid)
    assert len(stage.named("weights_repushed")) == 2 and stage.named("worker_lost") == []
