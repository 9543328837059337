"""Judge servers as processes: they start, they are checked by an image, and nothing of them is ever left behind.

The server is a stand-in with vLLM's process tree; `make test-vllm` does the same with vLLM itself.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from rewards.vllm import guard
from rewards.vllm.server import ServerFailed, VllmServer, last_words
from tests.rewards.vllm.conftest import alive, gone_within, tree_pids

ROOT = Path(__file__).resolve().parents[3]


def server_of(config, folder, **more):
    return VllmServer(config, config.path, "judge", folder / "logs" / "judge-0.log", **more)


def test_a_server_is_ready_once_it_responded_to_an_image(stand_in, tmp_path):
    with server_of(stand_in(), tmp_path, api_key="secret-of-the-run") as server:
        server.wait()
        pids = tree_pids(tmp_path / "pids")
        asked = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
        assert asked == [{"pid": pids[0], "status": 200, "images": 1}]  # with the key, else it would be 401
        assert all(alive(pid) for pid in [server.pid, *pids])
        command = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [server.pid, *pids])
        assert b"secret-of-the-run" not in command and b"--served-model-name" in command
        assert {os.getpgid(pid) for pid in [server.pid, *pids]} == {os.getpgid(0)}
        assert urllib.request.urlopen(server.url.removesuffix("/v1") + "/health", timeout=10).status == 200
        assert not server.ended.is_set()
    assert server.reason == "it was stopped"
    assert not any(alive(pid) for pid in [server.pid, *pids])


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr("rewards.vllm.server.GRACE", 1.0)


@pytest.mark.parametrize("behaviour", ["good", "stubborn"])
@pytest.mark.parametrize("victim", ["guard", "both guards", "server"])
def test_a_killed_part_takes_the_rest_with_it(stand_in, tmp_path, victim, behaviour):
    with server_of(stand_in(behaviour), tmp_path) as server:
        server.wait()
        pids = tree_pids(tmp_path / "pids")
        if victim == "both guards":
            os.kill(server.pid, signal.SIGSTOP)  # or it would clean up before it is killed
            (second,) = guard.descendants(server.pid) - set(pids)
            os.kill(second, signal.SIGKILL)
        os.kill(pids[0] if victim == "server" else server.pid, signal.SIGKILL)
        assert server.ended.wait(30)
        assert not any(alive(pid) for pid in [server.pid, *pids])
        assert "signal 9" in server.reason and "judge-0.log" in server.reason
    assert "signal 9" in server.reason  # stopping what has ended changes nothing


OWNER = """
import sys
from pathlib import Path
from configs.judges import ServeConfig
from rewards.vllm import server as module
from rewards.vllm.server import VllmServer
module.GRACE = 1.0
config = ServeConfig.model_validate_json(sys.argv[1])
server = VllmServer(config, config.path, "judge", Path(sys.argv[2]))
server.start()
server.wait()
print("ready", server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("how", "behaviour"),
    [
        ("kill -9 the owner", "good"),
        ("kill -9 the owner", "stubborn"),
        ("the owner ends", "good"),
        ("the owner ends", "stubborn"),
        ("terminate the owner", "good"),
        ("kill -9 the group", "good"),  # only those that stay in it, as vLLM does
    ],
)
def test_nothing_outlives_the_owner(stand_in, tmp_path, how, behaviour):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, stand_in(behaviour).model_dump_json(), str(tmp_path / "judge-0.log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        process_group=0,
    )
    with owner:
        guard_pid = int(owner.stdout.readline().removeprefix("ready "))
        pids = [guard_pid, *tree_pids(tmp_path / "pids")]
        if how == "the owner ends":
            owner.stdin.close()
        elif how == "terminate the owner":
            owner.terminate()
        elif how == "kill -9 the owner":
            owner.kill()
        else:
            os.killpg(owner.pid, signal.SIGKILL)
        assert gone_within(pids)
        assert owner.wait(30) == (0 if how == "the owner ends" else -15 if how == "terminate the owner" else -9)


def test_a_stubborn_server_is_stopped_too(stand_in, tmp_path):
    with server_of(stand_in("stubborn"), tmp_path) as server:
        server.wait()
        pids = tree_pids(tmp_path / "pids")
        assert os.getsid(pids[1]) == pids[1]  # it really left the session
    assert not any(alive(pid) for pid in [server.pid, *pids])


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("fail", "ended with exit code 3"),
        ("fail", "ValueError: no weights in that folder"),
        ("refuse", "got status 500"),
        ("mute", "did not respond to a test image within 2 s (serve.start_timeout)"),
    ],
)
def test_a_server_that_does_not_start_says_why_and_is_gone(stand_in, tmp_path, behaviour, sentence):
    server = server_of(stand_in(behaviour, start_timeout=2 if behaviour == "mute" else 60), tmp_path)
    server.start()
    with pytest.raises(ServerFailed) as raised:
        server.wait()
    assert sentence in str(raised.value)
    assert not alive(server.pid) and guard.writers(server.log) == set()


def test_a_missing_environment_is_a_sentence(stand_in, tmp_path):
    config = stand_in(python=str(tmp_path / "nowhere"))
    with pytest.raises(ServerFailed, match=r"nowhere; there is none\. Type `make judge`"):
        server_of(config, tmp_path).start()


def test_a_log_is_never_shared(stand_in, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "judge-0.log").touch()
    with pytest.raises(ServerFailed, match="File exists"):
        server_of(stand_in(), tmp_path).start()


def test_two_servers_never_get_the_same_port(stand_in, tmp_path):
    servers = [VllmServer(stand_in(arguments=()), "m", "judge", tmp_path / f"{n}.log") for n in range(4)]
    try:
        for server in servers:
            server.start()
        assert len({server.url for server in servers}) == 4
        for server in servers:
            server.wait()
    finally:
        for server in servers:
            server.stop()


def test_a_server_beyond_loopback_needs_a_key(stand_in, tmp_path):
    with pytest.raises(ValueError, match="set LOCUS_JUDGE_API_KEY"):
        server_of(stand_in(), tmp_path, host="10.1.2.3")
    server_of(stand_in(), tmp_path, host="10.1.2.3", api_key="key")
    server_of(stand_in(), tmp_path, host="127.0.0.2")


def test_last_words_are_the_first_and_the_last_error(tmp_path):
    log = tmp_path / "log"
    assert last_words(log).endswith("says: nothing")
    log.write_text("one\ntwo\nthree\nfour\n")
    assert last_words(log).endswith("says: two | three | four")
    log.write_text("INFO OSError: may come\nValueError: the cause\nINFO b\nRuntimeError: Engine failed\n\nbye\n")
    assert last_words(log).endswith("says: ValueError: the cause | RuntimeError: Engine failed")
