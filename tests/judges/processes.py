"""Scripted judges as processes of their own, which can be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class ScriptedProcess:
    """A scripted server process, a context manager; `log_file` outlives it and its restarts.

    It ends with the process that started it, because it watches its standard input.
    """

    def __init__(self, log_file: Path, script: str = "good", probes: str = "good") -> None:
        self.script, self.probes, self.log_file, self.port = script, probes, log_file, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every request that reached any of the processes, see `Asked.summary`."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.exists() else []
        return [json.loads(line) for line in lines]

    def start(self) -> None:
        """Starts it; after `kill` on the same port."""
        command = [
            sys.executable,
            "-m",
            "tests.judges.scripted",
            "--until-stdin-closes",
            "--script",
            self.script,
            "--probes",
            self.probes,
            "--log",
            str(self.log_file),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("port "), f"the scripted server did not start: {first!r}"
        self.port = int(first.split()[1])

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> ScriptedProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
