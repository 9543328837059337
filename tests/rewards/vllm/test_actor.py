"""Judge servers on real Ray processes, with a stand-in for vLLM: kept alive, and gone at the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from locus.common.ray_coroutines import Coroutines
from rewards.vllm import guard
from rewards.vllm.actor import JudgeServers
from rewards.vllm.replicas import ServersFailed
from tests.rewards.vllm.conftest import alive, gone_within, tree_pids
from tests.rewards.vllm.test_local import Told, judge_of

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]


class Owner:
    """Resumes the coroutines, as the backend does."""

    def __init__(self, serve, folder):
        self.coroutines, self.told = Coroutines(), Told()
        config = RunConfig(rewards=RewardsConfig(judge=judge_of(serve)))
        self.servers = JudgeServers(
            config, "editscore", folder, self.coroutines, self.told.notify, self.told.urls.append
        )

    def until(self, done, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.told.events
            self.coroutines.wait(0.2)
            self.coroutines.resume()
            self.servers.check()

    def started(self):
        return [event for event in self.told.events if event["event"] == "judge_server_started"]

    def lost(self):
        return [event for event in self.told.events if event["event"] == "judge_server_lost"]


@pytest.fixture
def owner(ray_cluster, stand_in, tmp_path):
    owners = []

    def make(*arguments, **settings):
        owners.append(Owner(stand_in(*arguments, **settings), tmp_path / "run"))
        return owners[-1]

    yield make
    for one in owners:
        one.servers.close()


@pytest.mark.parametrize("victim", ["the group", "the actor", "the guard", "the server"])
def test_what_is_killed_is_replaced_and_leaves_nothing(owner, tmp_path, victim):
    one = owner()
    one.servers.start()
    one.until(lambda: one.servers.ready)
    (first,) = one.servers.urls()
    guard_pid, server, *below = [one.started()[0]["pid"], *tree_pids(tmp_path / "pids")]
    actor = int(Path(f"/proc/{guard_pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert os.getpgid(server) == os.getpgid(guard_pid) == os.getpgid(actor) != os.getpgid(0)
    (tmp_path / "pids").unlink()
    if victim == "the group":
        os.killpg(os.getpgid(server), signal.SIGKILL)
    else:
        os.kill({"the actor": actor, "the guard": guard_pid, "the server": server}[victim], signal.SIGKILL)
    one.until(lambda: len(one.started()) == 2)
    assert gone_within([actor, guard_pid, server, *below])
    (lost,) = one.lost()
    assert lost["pid"] == guard_pid and lost["reason"]
    (second,) = one.servers.urls()
    assert second != first and one.told.urls == [[first], [], [second]]
    pids = [one.started()[1]["pid"], *tree_pids(tmp_path / "pids")]
    assert all(map(alive, pids))
    one.servers.close()
    assert not any(map(alive, pids))
    assert all(guard.writers(log) == set() for log in (tmp_path / "run" / "judges").iterdir())


def test_a_server_that_does_not_start_is_a_sentence(owner):
    one = owner("fail")
    one.servers.start()
    with pytest.raises(ServersFailed, match="no weights in that folder"):
        one.until(lambda: one.servers.ready)


def test_gpus_that_this_machine_does_not_have_are_not_waited_for(owner):
    with pytest.raises(ConfigError, match=r"serve: expected 64 GPUs .* With serve\.gpus 0"):
        owner(gpus=64).servers.start()


def test_two_servers_of_one_judge(owner):
    one = owner(replicas=2)
    one.servers.start()
    one.until(lambda: one.servers.ready)
    assert len(set(one.servers.urls())) == 2
    pids = [event["pid"] for event in one.started()]
    one.servers.close()
    assert not any(map(alive, pids)) and one.servers.urls() == []


DRIVER = """
import sys
from pathlib import Path
import ray
from cluster.runtime import connect
from configs.judges import ServeConfig
from configs.schema import ClusterConfig
from tests.rewards.vllm.test_actor import Owner
connect(ClusterConfig())
one = Owner(ServeConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
one.servers.start()
one.until(lambda: one.servers.ready)
print("ready", one.started()[0]["pid"], flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_leaves_no_server(stand_in, tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, stand_in().model_dump_json(), str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        pids = [int(driver.stdout.readline().removeprefix("ready ")), *tree_pids(tmp_path / "pids")]
        assert all(map(alive, pids))
        driver.kill()
        assert gone_within(pids, 60)
