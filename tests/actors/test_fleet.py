"""The fleet with workers that only pretend: who gets which job, and what deaths, hangs and refusals cost."""

import os
import signal

import psutil
import pytest
from ray.exceptions import OutOfMemoryError

from actors.fleet import FleetError
from editing.task import TaskError
from editing.trajectory import MessageError

pytestmark = pytest.mark.ray


def test_jobs_go_to_workers_that_proved_the_weights_and_never_more_than_they_take(scene):
    stage = scene(groups_in_flight=2)
    assert stage.fleet.capacity() == 0  # nothing is published
    stage.publish(5)
    assert stage.fleet.capacity() == 0  # nothing is proved
    stage.until(lambda: stage.fleet.capacity() == 4)
    assert [started["version"] for started in stage.named("worker_started")] == [5, 5]
    assert sorted(stage.fleet.pids()) == sorted(started["pid"] for started in stage.named("worker_started"))
    for index in range(4):
        stage.submit(index, seconds=0.05)
    assert stage.fleet.capacity() == 0
    stage.until(lambda: len(stage.done) == 4)
    assert {small[1:3] for small, _ in stage.done} == {(5, 5)} and len({small[3] for small, _ in stage.done}) == 2
    assert stage.ray.get(stage.done[0][1]) == f"large {stage.done[0][0][0]}"


def test_a_killed_worker_loses_its_jobs_and_is_replaced_with_the_current_weights(scene):
    stage = scene(groups_in_flight=2)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    stage.publish(7)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim = stage.fleet.pids()[0]
    for index in range(4):
        stage.submit(index, seconds=2.0)
    os.kill(victim, signal.SIGKILL)
    stage.until(lambda: len(stage.failed) == 2)
    (lost,) = stage.named("worker_lost")
    assert lost["pid"] == victim and lost["jobs"] == 2
    assert "ActorDiedError" in lost["reason"] or "ActorUnavailableError" in lost["reason"]
    stage.until(lambda: len(stage.done) == 2 and stage.fleet.capacity() == 4)
    assert [started["version"] for started in stage.named("worker_started")] == [1, 1, 7]
    assert victim not in stage.fleet.pids()
    names = sorted([small[0] for small, _ in stage.done] + [name for name, _ in stage.failed])
    assert names == [0, 1, 2, 3]


def test_a_worker_that_hangs_is_ended_at_the_deadline_and_the_others_go_on(scene):
    stage = scene(groups_in_flight=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 2)
    stage.limit(3.0)
    stage.submit("hangs", seconds=3600)
    stage.submit("works")
    stage.until(lambda: stage.failed)
    assert [small[0] for small, _ in stage.done] == ["works"]
    assert stage.failed == [("hangs", "no response within 3 s (cluster.group_timeout)")]
    stage.until(lambda: stage.fleet.capacity() == 2)
    assert len(stage.named("worker_started")) == 3


def test_a_worker_that_ray_ended_for_want_of_memory_is_replaced(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.submit("big", method="fail", arguments=(OutOfMemoryError("the node is short of memory"),))
    stage.until(lambda: stage.failed)
    (failed,) = stage.failed
    assert failed[0] == "big" and "short of memory" in failed[1]
    stage.until(lambda: stage.fleet.capacity() > 0)
    assert len(stage.named("worker_lost")) == 1 and len(stage.named("worker_started")) == 2


def test_a_job_in_line_has_its_full_time(scene):
    stage = scene(rollout_workers=1, groups_in_flight=4)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    stage.limit(4.0)
    for index in range(4):
        stage.submit(index, seconds=1.2)  # 4.8 s in all
    stage.until(lambda: len(stage.done) == 4)
    assert stage.failed == []


def test_workers_that_never_start_stop_the_run_with_their_reason(scene):
    stage = scene(broken=99, max_restarts=1)
    stage.publish(1)
    with pytest.raises(
        FleetError,
        match=r"0 rollout workers are left, expected at least 1 .*2 times in a row .*"
        r"\(cluster.max_restarts\); the last time: .*no such editor",
    ):
        stage.until(lambda: False)
    assert len(stage.named("worker_lost")) == 4 and len(stage.named("worker_given_up")) == 2
    assert (stage.folder / "broken").read_text() == "95"  # four processes were started, no more


def test_a_place_that_crash_loops_is_given_up_while_the_others_work(scene):
    stage = scene(max_restarts=2)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim, healthy = stage.fleet.pids()
    (stage.folder / "broken").write_text("99")  # no new worker can start
    for _ in range(2):
        stage.submit("first", seconds=1.0)
    os.kill(victim, signal.SIGKILL)
    stage.until(lambda: stage.failed)

    def working():
        if stage.fleet.capacity() == 2:
            stage.submit("works")
        return stage.named("worker_given_up")

    stage.until(working)
    (gone,) = stage.named("worker_given_up")
    assert (gone["losses"], gone["left"]) == (3, 1) and "no such editor" in gone["reason"]
    assert [lost["again_in"] for lost in stage.named("worker_lost")] == [0.2, 0.4, None]
    assert (stage.folder / "broken").read_text() == "97"
    stage.until(lambda: len(stage.done) >= 3)
    assert {small[3] for small, _ in stage.done} == {healthy} and len(stage.failed) == 1
    (stage.folder / "broken").write_text("0")  # repaired
    stage.fleet.resize(2)
    stage.until(lambda: stage.fleet.capacity() >= 3)
    assert len(stage.fleet.pids()) == 2


def test_below_the_floor_the_fleet_gives_up_although_one_works(scene):
    stage = scene(max_restarts=0, min_rollout_workers=2)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim = stage.fleet.pids()[0]
    stage.submit("on its own", seconds=3600)
    stage.submit("on its own", seconds=3600)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(
        FleetError,
        match=r"1 rollout workers are left, expected at least 2 "
        r"\(cluster.min_rollout_workers\)",
    ):
        stage.until(lambda: False)
    assert len(stage.failed) == 1  # its job was handed back first


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, "exit", "sleep"], ids=str)
def test_whatever_ends_a_worker_its_job_fails_once_and_another_comes(scene, how):
    stage = scene(rollout_workers=1, groups_in_flight=2)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 2)
    (victim,) = stage.fleet.pids()
    if how == "sleep":
        stage.limit(3.0)
    stage.submit("dies", method="die", arguments=(how,))
    stage.submit("waits")
    stage.until(lambda: len(stage.failed) == 2)
    assert [name for name, _ in stage.failed] == ["dies", "waits"]
    stage.limit(60.0)
    stage.until(lambda: stage.fleet.capacity() == 2)
    (lost,) = stage.named("worker_lost")
    assert (lost["pid"], lost["jobs"]) == (victim, 2)
    stage.until(lambda: not psutil.pid_exists(victim))


def test_more_workers_come_and_fewer_finish_their_jobs_first(scene):
    stage = scene(rollout_workers=1, groups_in_flight=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 1)
    stage.fleet.resize(3)
    stage.until(lambda: stage.fleet.capacity() == 3)
    before = stage.fleet.pids()
    for index in range(3):
        stage.submit(index, seconds=2.0)
    stage.fleet.resize(1)
    assert stage.fleet.capacity() == 0 and len(stage.fleet.pids()) == 3  # all of them still work
    stage.until(lambda: len(stage.done) == 3)
    stage.until(lambda: len(stage.named("worker_drained")) == 2)
    assert stage.failed == [] and stage.named("worker_lost") == []
    stage.until(lambda: stage.fleet.capacity() == 1)
    gone = {drained["pid"] for drained in stage.named("worker_drained")}
    assert gone == set(before) - set(stage.fleet.pids())
    stage.until(lambda: not any(psutil.pid_exists(pid) for pid in gone))
    assert stage.named("fleet_resized") == [{"before": 1, "after": 3}, {"before": 3, "after": 1}]


def test_a_draining_worker_that_dies_hands_its_job_back_and_nobody_follows(scene):
    stage = scene(groups_in_flight=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 2)
    for index in range(2):
        stage.submit(index, seconds=2.0)
    stage.fleet.resize(1)
    (draining,) = [slot.worker for slot in stage.fleet.slots.all() if slot.draining]
    os.kill(draining.pid, signal.SIGKILL)
    stage.until(lambda: stage.failed and stage.done)
    (lost,) = stage.named("worker_lost")
    assert (lost["pid"], lost["again_in"]) == (draining.pid, None) and stage.named("worker_given_up") == []
    stage.until(lambda: stage.fleet.capacity() == 1)
    assert len(stage.named("worker_started")) == 2


def test_a_fault_of_one_task_fails_its_job_only(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    stage.submit("bad", method="fail", arguments=(MessageError("latents contain NaN"),))
    stage.submit("gone", method="fail", arguments=(TaskError("its file is gone"),))
    stage.until(lambda: len(stage.failed) == 2)
    assert stage.failed == [("bad", "MessageError: latents contain NaN"), ("gone", "TaskError: its file is gone")]
    assert stage.spoiled == ["gone"] and stage.named("worker_lost") == []


def test_a_worker_that_raises_is_replaced_and_a_second_that_raises_the_same_stops_everything(scene):
    stage = scene(rollout_workers=1)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() > 0)
    first = stage.fleet.pids()
    stage.submit("bug", method="fail", arguments=(KeyError("oops"),))
    stage.until(lambda: stage.failed and stage.fleet.capacity() > 0)
    assert stage.failed == [("bug", "KeyError: 'oops'")] and stage.fleet.pids() != first
    stage.submit("another", method="fail", arguments=(KeyError("other"),))
    stage.until(lambda: len(stage.failed) == 2 and stage.fleet.capacity() > 0)
    stage.submit("again", method="fail", arguments=(KeyError("oops"),))
    with pytest.raises(FleetError, match="Rollout workers fail, one like the other: KeyError: 'oops'") as caught:
        stage.until(lambda: False)
    assert isinstance(caught.value.__cause__, KeyError)  # so that nothing retries what would fail again
