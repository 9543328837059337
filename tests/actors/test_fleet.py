"""The fleet with workers that only pretend: deaths, hangs, refusals, and who gets which job under which weights."""

import fcntl
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
from ray.exceptions import ObjectLostError, OutOfMemoryError

import actors.fleet
from actors.fleet import Announcement, Fleet, FleetError, Job, WrongWeights
from actors.slots import Limits
from actors.trajectory import MessageError
from actors.worker import WrongVersion
from configs.schema import RunConfig
from editing.task import TaskError

pytestmark = pytest.mark.ray


def stub_worker(folder):
    """A worker class that Ray ships by value, so that its processes import neither torch nor anything of ours.

    `folder/broken`: how many more processes cannot start.
    """

    class Stub:
        def __init__(self, config):
            with (folder / "broken").open("r+") as broken:
                fcntl.flock(broken, fcntl.LOCK_EX)  # workers start beside each other
                if (left := int(broken.read())) > 0:
                    broken.seek(0)
                    broken.write(f"{left - 1:2}")
                    raise RuntimeError("no such editor")
            self.version, self.pushes = None, 0

        def set_weights(self, weights):
            self.pushes += 1
            if weights.get("hangs") == os.getpid():
                time.sleep(3600)
            bad = weights.get("bad", {}).get(os.getpid(), weights.get("all_bad", 0))
            if self.pushes - (self.version is not None) <= bad:  # its first `bad` pushes of this version
                how = weights["how"]
                if how == "gone":
                    raise ObjectLostError("00", None, "")
                if how == "refused":
                    raise ValueError("the shapes differ")
                version, fingerprint = (self.version, "old") if how == "dropped" else (weights["version"], "lies")
                return SimpleNamespace(
                    weights=SimpleNamespace(version=version, fingerprint=fingerprint, modules=3), pid=os.getpid())
            self.version, self.pushes = weights["version"], 1
            return SimpleNamespace(
                weights=SimpleNamespace(version=self.version, fingerprint=weights["fingerprint"], modules=3),
                pid=os.getpid())

        def work(self, name, seconds):
            before = self.version
            time.sleep(seconds)
            return (name, before, self.version, os.getpid()), f"large {name}"

        def fail(self, error):
            raise error

        def die(self, how):
            if how == "exit":
                os._exit(3)
            if how == "sleep":
                time.sleep(3600)
            os.kill(os.getpid(), how)

    return Stub


class Scene:
    """A fleet, and the loop that its owner would run."""

    def __init__(self, monkeypatch, folder, **cluster):
        import ray

        monkeypatch.setattr(actors.fleet, "RolloutActor", stub_worker(folder))
        self.waiting, self.events, self.done, self.failed, self.spoiled = {}, [], [], [], []
        settings = RunConfig.model_validate({"cluster": {"rollout_workers": 2, "group_timeout": 60, **cluster}})
        self.ray, self.folder = ray, folder
        limits = Limits(settings.cluster.max_restarts, settings.cluster.min_rollout_workers, first_delay=0.2)
        self.fleet = Fleet(settings, {"num_cpus": 0, "max_restarts": 0}, self._when_ready,
                           lambda event, **fields: self.events.append((event, fields)), limits)

    def _when_ready(self, ref, call):
        self.waiting[ref] = call

    def limit(self, seconds):
        """Sets `cluster.group_timeout` now that the workers are up, which on a busy machine takes longer."""
        config = self.fleet._config
        cluster = config.cluster.model_copy(update={"group_timeout": seconds})
        self.fleet._config = config.model_copy(update={"cluster": cluster})

    def publish(self, version, **more):
        weights = {"version": version, "fingerprint": f"sha-{version}", **more}
        self.fleet.send(self.ray.put(weights))
        assert self.fleet.capacity() == 0
        self.fleet.announce(Announcement(version, f"sha-{version}", 3))

    def submit(self, name, seconds=0.0, method="work", arguments=None):
        self.fleet.submit(Job(method, arguments or (name, seconds), lambda small, big: self.done.append((small, big)),
                              lambda why, spoiled: self.fail(name, why, spoiled)))

    def fail(self, name, why, spoiled):
        self.failed.append((name, why))
        self.spoiled += [name] * spoiled

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"nothing came of it: {self.events} {self.done} {self.failed}"
            self.fleet.check()
            ready, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=0.2)
            for ref in ready:
                self.waiting.pop(ref)(ref)

    def named(self, event):
        return [fields for name, fields in self.events if name == event]


@pytest.fixture
def scene(ray_cluster, monkeypatch, tmp_path):
    scenes = []

    def make(broken=0, **settings):
        (tmp_path / "broken").write_text(str(broken))
        scenes.append(Scene(monkeypatch, tmp_path, **settings))
        return scenes[-1]

    yield make
    for one in scenes:
        one.fleet.close()


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
    assert stage.failed == [("hangs", "no answer within 3 s (cluster.group_timeout)")]
    stage.until(lambda: stage.fleet.capacity() == 2)
    assert len(stage.named("worker_started")) == 3


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
    assert lost["reason"] == "no answer within 3 s (cluster.group_timeout)"
    assert [started["version"] for started in stage.named("worker_started")] == [1, 1, 2]


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
    stage.limit(3.0)
    for index in range(4):
        stage.submit(index, seconds=1.2)  # 4.8 s in all
    stage.until(lambda: len(stage.done) == 4)
    assert stage.failed == []


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


def test_workers_that_never_start_stop_the_run_with_their_reason(scene):
    stage = scene(broken=99, max_restarts=1)
    stage.publish(1)
    with pytest.raises(FleetError, match=r"0 rollout workers are left, expected at least 1 .*2 times in a row .*"
                                         r"\(cluster.max_restarts\); the last time: .*no such editor"):
        stage.until(lambda: False)
    assert len(stage.named("worker_lost")) == 4 and len(stage.named("worker_given_up")) == 2
    assert (stage.folder / "broken").read_text() == "95"  # four processes were started, no more


def test_a_place_that_crash_loops_is_given_up_while_the_others_work(scene):
    stage = scene(max_restarts=2)
    stage.publish(1)
    stage.until(lambda: stage.fleet.capacity() == 4)
    victim, healthy = stage.fleet.pids()
    (stage.folder / "broken").write_text("99")  # nobody new can start
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
    with pytest.raises(FleetError, match=r"1 rollout workers are left, expected at least 2 "
                                         r"\(cluster.min_rollout_workers\)"):
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
    assert (lost["pid"], lost["jobs"]) == (victim, 2) and not psutil.pid_exists(victim)


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
    assert isinstance(caught.value.__cause__, KeyError)  # so that nobody tries again what would fail again
