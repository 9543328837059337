"""The service as people start it: a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rewards.service.running import Client, until

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "rewards.service"]


def environment(token: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "LOCUS_SERVICE_TOKEN"}
    return kept if token is None else {**kept, "LOCUS_SERVICE_TOKEN": token}


class Service:
    """A service in a process of its own; `said` is everything that it wrote."""

    def __init__(self, flags: tuple[str, ...], token: str | None) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--service.port", "0", *flags],
            cwd=ROOT,
            env=environment(token),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        until(lambda: "Reward service on" in self.said or self.process.poll() is not None, 120)
        found = re.search(r"Reward service on (http://\S+)", self.said)
        assert found, self.said
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.client = Client(found[1], headers)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said += line

    def end(self, number: int = signal.SIGTERM) -> int:
        """Asks it to end, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.stdout.close()


@contextmanager
def service(*flags: str, token: str | None = None) -> Iterator[Service]:
    running = Service(flags, token)
    try:
        yield running
    finally:
        running.end()
