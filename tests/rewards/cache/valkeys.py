"""Real Valkey servers for tests, and waiting for what processes do."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from rewards.cache.valkey import _binary


def eventually(condition: Callable[[], bool], within: float = 30.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_of(url: str) -> int:
    """The process of the server at an address, as it says itself."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def shared_valkey(port: int, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is not the run's own, on loopback; it stays away once it is killed."""
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    server = subprocess.Popen(
        [_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *words],
        stdout=subprocess.DEVNULL,
        cwd=os.environ.get("TMPDIR", "/tmp"),
    )
    try:
        assert eventually(lambda: _listens(port))
        yield server
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
