"""When servers count as up, when they are started again, and what is told; with launches that are only noted."""

import pytest

from configs.judges import JudgeConfig
from rewards.vllm import replicas as module
from rewards.vllm.replicas import Replicas, Served, ServersFailed, log_of, merged_folder


class Launches:
    """Notes every launch, so that a test can let it succeed or fail."""

    def __init__(self):
        self.made, self.ended = [], []

    def __call__(self, replica, attempt, ready, lost):
        owner = self

        class Launched:
            def end(self):
                owner.ended.append((replica, attempt))

        launched = Launched()
        launched.replica, launched.attempt, launched.ready, launched.lost = replica, attempt, ready, lost
        self.made.append(launched)
        return launched


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def started(clock):
    launches, events, urls = Launches(), [], []
    judge = JudgeConfig.model_validate({"editscore": {"serve": {"replicas": 2, "path": "p"}}})
    replicas = Replicas(
        judge,
        "editscore",
        launches,
        lambda event, **fields: events.append({"event": event, **fields}),
        lambda now: urls.append(list(now)),
    )
    replicas.start()
    return replicas, launches, events, urls


def up(launched, port):
    launched.ready(Served(f"http://127.0.0.1:{port}/v1", pid=port, seconds=1.0))


def test_ready_means_that_all_were_up_and_addresses_are_told(started):
    replicas, launches, events, urls = started
    assert [(one.replica, one.attempt) for one in launches.made] == [(0, 1), (1, 1)]
    up(launches.made[1], 8001)
    assert not replicas.ready and replicas.urls() == ["http://127.0.0.1:8001/v1"]
    up(launches.made[0], 8000)
    assert replicas.ready and replicas.urls() == ["http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"]
    assert urls == [replicas.urls()[1:], replicas.urls()]
    assert events[0] == {
        "event": "judge_server_started",
        "judge": "editscore",
        "replica": 1,
        "pid": 8001,
        "url": "http://127.0.0.1:8001/v1",
        "seconds": 1.0,
    }


def test_a_server_that_does_not_come_up_at_first_stops_the_start(started):
    _, launches, _, _ = started
    up(launches.made[0], 8000)
    with pytest.raises(ServersFailed, match=r"rewards\.judge\.editscore\.serve: no such weights"):
        launches.made[1].lost("no such weights")


def test_a_start_that_takes_too_long_is_given_up(started, clock):
    replicas, launches, _, _ = started
    up(launches.made[0], 8000)
    clock.now += 900 + module.PLACING - 1
    replicas.check()
    clock.now += 2
    with pytest.raises(ServersFailed, match="not up within 960 s"):
        replicas.check()
    assert launches.ended == [(1, 1)]


def test_a_lost_server_comes_back_later_every_time(started, clock):
    replicas, launches, events, urls = started
    for port, launched in enumerate(launches.made):
        up(launched, port)
    waited = []
    for _ in range(8):
        launches.made[-1].lost("killed")
        told = events[-1]
        assert told["event"] == "judge_server_lost" and told["reason"] == "killed"
        assert urls[-1] == ["http://127.0.0.1:0/v1"]
        clock.now += told["again_in"] - 0.01
        count = len(launches.made)
        replicas.check()
        assert len(launches.made) == count
        clock.now += 0.02
        replicas.check()
        assert len(launches.made) == count + 1 and launches.made[-1].attempt == launches.made[-2].attempt + 1
        up(launches.made[-1], 9000)
        waited.append(told["again_in"])
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60]
    clock.now += module.POLICY.settled + 1
    launches.made[-1].lost("killed")
    assert events[-1]["again_in"] == 1  # it had been well for long
    assert replicas.ready


def test_a_restart_that_fails_is_tried_again(started, clock):
    replicas, launches, events, _ = started
    for port, launched in enumerate(launches.made):
        up(launched, port)
    launches.made[0].lost("killed")
    clock.now += 2
    replicas.check()
    launches.made[-1].lost("no memory")
    assert events[-1] == {
        "event": "judge_server_lost",
        "judge": "editscore",
        "replica": 0,
        "pid": None,
        "reason": "no memory",
        "again_in": 2.0,
    }
    clock.now += 3
    replicas.check()
    clock.now += 1000  # hangs
    replicas.check()
    assert launches.ended == [(0, 3)] and events[-1]["again_in"] == 4.0


def test_what_a_given_up_server_says_later_means_nothing(started, clock):
    replicas, launches, events, _ = started
    for port, launched in enumerate(launches.made):
        up(launched, port)
    first = launches.made[0]
    first.lost("killed")
    clock.now += 2
    replicas.check()
    count = len(events)
    first.lost("killed again")
    up(first, 7777)
    assert len(events) == count and replicas.urls() == ["http://127.0.0.1:1/v1"]
    ended = replicas.end()
    assert len(ended) == 2 and replicas.end() == []
    ended[0].lost("stopped")
    replicas.check()
    assert len(events) == count and len(launches.made) == 3


def test_logs_never_meet(tmp_path):
    first = log_of(tmp_path, "editscore", 0, 1)
    first.parent.mkdir()
    first.touch()
    assert log_of(tmp_path, "editscore", 0, 1).name == "editscore-0-2.log"  # a run that is continued starts at 1 again
    assert log_of(tmp_path, "editscore", 1, 1).name == "editscore-1-1.log"
    assert merged_folder(tmp_path / "runs" / "mine") == tmp_path / "runs" / ".merged"
