"""What listens while a run goes on: everything of ours on loopback, and Ray's own only for those who have the token."""

import http.client
from dataclasses import dataclass

import psutil
import pytest

from cluster.doctor.exposure import is_loopback, is_rays
from learner.train import run
from tests.judges.scripted import ScriptedServer
from tests.learner.test_loop import Watcher
from tests.system.test_judges import judged

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass(frozen=True)
class Listening:
    """A socket of a process of the run, and how its owner was told to treat strangers."""

    process: str
    address: str
    port: int
    ray: bool
    auth_mode: str

    def answers_strangers(self) -> bool:
        """Whether it gives a page to somebody without a token; what speaks gRPC gives none to anybody."""
        host = "127.0.0.1" if self.address in ("0.0.0.0", "::") else self.address
        connection = http.client.HTTPConnection(host, self.port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status != 401
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()


class Listener(Watcher):
    """Writes down everything beyond loopback that the processes of the run listen on, whenever a step is done."""

    def __init__(self):
        super().__init__()
        self.beyond: set[Listening] = set()
        self.seen = 0

    def on_step(self, record):
        super().on_step(record)
        for process in psutil.Process().children(recursive=True):
            try:
                command = process.cmdline()
                for one in process.net_connections(kind="inet"):
                    if one.status == psutil.CONN_LISTEN:
                        self.seen += 1
                        if not is_loopback(one.laddr.ip):
                            self.beyond.add(Listening(
                                " ".join(command)[:100].strip(), one.laddr.ip, one.laddr.port,
                                is_rays(process.name(), command), auth_mode(process)))
            except psutil.NoSuchProcess:
                continue


def auth_mode(process: psutil.Process | None) -> str:
    """RAY_AUTH_MODE in its environment, or in that which it got: titles of processes overwrite their own."""
    while process is not None:
        if "PATH" in (variables := process.environ()):
            return variables.get("RAY_AUTH_MODE", "")
        process = process.parent()
    return ""


@pytest.mark.xfail(strict=True, reason="Ray shows its metrics to everybody, see cluster.runtime._start_local")
def test_what_a_run_listens_on_is_loopback_or_asks_for_the_token(ray_cluster, tiny_kontext, tmp_path):
    listener = Listener()
    with ScriptedServer() as judge:  # of this process, which is not looked at
        run(judged(tiny_kontext, tmp_path, "listens", "ray", judge.url, redis={"mode": "embedded"},
                   learner={"steps": 2, "groups_per_step": 2, "num_workers": 2}), observers=[listener])
    assert listener.seen > 3  # the look saw sockets
    assert [one for one in listener.beyond if not one.ray or one.auth_mode != "token"] == []
    assert [one for one in listener.beyond if one.answers_strangers()] == []
