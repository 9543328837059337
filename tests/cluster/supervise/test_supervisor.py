"""A supervisor over a cluster that follows a script: which jobs it submits, and when it stops."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.supervise.jobs import JobRefused, Unreachable
from cluster.supervise.policy import POLICY, Ended
from cluster.supervise.supervisor import LOG_LINES, LOOK_EVERY, Clock, Supervisor, next_name
from configs import exits

DONE, KILLED, WRONG = Ended(0, "Job finished."), Ended(-9, "killed"), Ended(2, "wrong")


class Cluster:
    """Jobs end as scripted, each after having been seen running once; `time` stands still but for sleeping."""

    def __init__(self, *ends: Ended, log: str = "last words") -> None:
        self.ends, self.text = list(ends), log
        self.time = 0.0
        self.jobs: dict[str, list[Ended | str]] = {}
        self.entrypoints: list[str] = []
        self.away: Callable[[], bool] = lambda: False

    def running(self):
        self._reach()
        return {name: isinstance(states[0], str) for name, states in self.jobs.items()}

    def submit(self, name, entrypoint):
        self._reach()
        assert name not in self.jobs
        self.jobs[name] = ["RUNNING", self.ends.pop(0)]
        self.entrypoints.append(entrypoint)

    def look(self, name):
        self._reach()
        states = self.jobs.get(name)
        return None if states is None else states.pop(0) if len(states) > 1 else states[0]

    def log(self, name):
        self._reach()
        return self.text

    def _reach(self):
        if self.away():
            raise Unreachable("no server responds")

    def sleep(self, seconds):
        self.time += seconds


def watch(cluster: Cluster, said: list[str] | None = None, patience: float = 100.0, **rules) -> int:
    said = [] if said is None else said
    policy = replace(POLICY, **{"first_delay": 10.0, **rules})
    clock = Clock(lambda: cluster.time, cluster.sleep)
    return Supervisor(cluster, "cats", "train", policy, patience, said.append, clock).until_it_ends()


def test_a_run_that_is_done_is_submitted_once():
    cluster, said = Cluster(DONE), []
    assert watch(cluster, said) == exits.DONE
    assert list(cluster.jobs) == ["cats-1"] and cluster.entrypoints == ["train"]
    assert "| last words" in said and said[-1] == "The run is done."


def test_a_killed_run_is_submitted_again_after_a_growing_delay():
    cluster, said = Cluster(KILLED, KILLED, DONE), []
    assert watch(cluster, said) == exits.DONE
    assert list(cluster.jobs) == ["cats-1", "cats-2", "cats-3"]
    assert [line for line in said if line.startswith("Another")] == [
        "Another attempt in 10 s (1 of at most 6 failures in a row).",
        "Another attempt in 20 s (2 of at most 6 failures in a row).",
    ]
    assert cluster.time == 10 + 20 + 3 * LOOK_EVERY


def test_a_wrong_request_is_not_repeated():
    cluster = Cluster(WRONG, DONE)
    assert watch(cluster) == exits.WRONG_REQUEST and list(cluster.jobs) == ["cats-1"]


def test_too_many_failures_in_a_row_end_it():
    cluster = Cluster(*[KILLED] * 9)
    assert watch(cluster, restarts=2) == exits.RESUMABLE and len(cluster.jobs) == 3


def test_a_job_that_the_cluster_no_longer_knows_was_lost_with_its_cluster():
    cluster, said = Cluster(DONE, DONE), []
    looks = []

    def look(name):
        looks.append(name)
        if len(looks) == 2:  # the head died and another came up, which knows nothing
            cluster.jobs.clear()
        return Cluster.look(cluster, name)

    cluster.look = look
    assert watch(cluster, said) == exits.DONE
    assert looks[:2] == ["cats-1", "cats-1"] and cluster.entrypoints == ["train", "train"]
    assert any("its own cluster was lost" in line for line in said)


def test_a_cluster_that_comes_back_is_waited_for_and_one_that_does_not_ends_it():
    cluster, said = Cluster(DONE), []
    cluster.away = lambda: 2.0 <= cluster.time < 50.0
    assert watch(cluster, said) == exits.DONE
    assert [line for line in said if "no server responds" in line] == [
        "no server responds; waiting up to 100 s for it to come back."
    ]
    cluster = Cluster(DONE)
    cluster.away = lambda: cluster.time >= 2.0
    assert watch(cluster, said) == exits.RESUMABLE and said[-1].startswith("No cluster for 100 s.")


def test_a_supervisor_that_starts_again_waits_for_the_attempt_that_runs():
    cluster, said = Cluster(), []
    cluster.jobs = {"cats-1": [KILLED], "cats-2": ["RUNNING", DONE], "dogs-7": ["RUNNING"]}
    assert watch(cluster, said) == exits.DONE and said[0] == "cats-2 is already running; waiting for it."
    assert cluster.entrypoints == []


def test_a_submission_whose_response_was_lost_is_not_repeated():
    cluster = Cluster(DONE, DONE)
    submit = cluster.submit

    def lossy(name, entrypoint):
        submit(name, entrypoint)
        if len(cluster.jobs) == 1:
            raise Unreachable("the response was lost")

    cluster.submit = lossy
    assert watch(cluster) == exits.DONE and list(cluster.jobs) == ["cats-1"]


def test_a_log_that_cannot_be_had_changes_nothing():
    cluster, said = Cluster(DONE), []

    def refuse(name):
        raise JobRefused("no log")

    cluster.log = refuse
    assert watch(cluster, said) == exits.DONE and "The log of cats-1 is not available: no log" in said


def test_only_the_end_of_a_long_log_is_shown():
    cluster, said = Cluster(DONE, log="\n".join(map(str, range(1000)))), []
    watch(cluster, said)
    assert [line for line in said if line.startswith("|")] == [f"| {n}" for n in range(1000 - LOG_LINES, 1000)]


@pytest.mark.parametrize(
    ("known", "name"),
    [([], "a-1"), (["a-1"], "a-2"), (["a-9", "a-10", "a-2"], "a-11"), (["b-3", "a-x", "a-1-5", "xa-4"], "a-1")],
)
def test_attempts_are_numbered_per_run(known, name):
    assert next_name("a", dict.fromkeys(known)) == name
