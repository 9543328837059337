"""The run's own score cache is killed in the middle of it: scoring goes on, and the adapter is the same."""

import signal

import pytest

from learner.audit import audited
from learner.run import run
from tests.descendants import descendants
from tests.judges.scripted import ScriptedServer
from tests.learner.adapters import same_adapter
from tests.learner.test_loop import Watcher
from tests.rewards.cache.valkeys import eventually
from tests.system.test_judges import MODES, events_of, judged

pytestmark = pytest.mark.fault


class Killer(Watcher):
    """Kills the cache at the second step, and keeps its guard from starting it again until a fault was reported."""

    def __init__(self):
        super().__init__()
        self.killed, self.guard = None, None

    def on_group(self, record):
        super().on_group(record)
        if record.step == 1 and self.killed is None:
            (server,) = descendants("valkey-server")
            self.guard = server.parent()
            self.guard.suspend()
            server.kill()
            self.killed = server.pid

    def on_notice(self, sentence):
        super().on_notice(sentence)
        if "cache of judge scores does not respond" in sentence:
            self.release()

    def on_step(self, record):
        super().on_step(record)
        if record.step > 5:  # it is wanted back
            assert eventually(lambda: [one.pid for one in descendants("valkey-server")] not in ([], [self.killed]))

    def release(self):
        if self.guard is not None and self.guard.is_running():
            self.guard.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_without_its_score_cache_and_finds_it_again(mode, request, tiny_kontext, tmp_path):
    if mode == "ray":
        request.getfixturevalue("ray_cluster")
    killer, longer = Killer(), {"learner": {"steps": 6}}
    with ScriptedServer() as judge:
        run(judged(tiny_kontext, tmp_path, "without", "inline", judge.url, redis={"mode": "off"}, **longer))
        try:
            run(
                judged(tiny_kontext, tmp_path, "killed", mode, judge.url, redis={"mode": "embedded"}, **longer),
                observers=[killer],
            )
        finally:
            killer.release()
    events = events_of(tmp_path, "killed")
    assert killer.killed is not None and "cache_trouble" in {event["event"] for event in events}
    assert not [event for event in events if event["event"] in ("rejected", "requeued", "judge_trouble", "failed")]
    assert not any(audited(tmp_path / "killed" / "events.jsonl").faults.values())
    assert same_adapter(tmp_path / "without", tmp_path / "killed")
    assert descendants("valkey-server") == []
