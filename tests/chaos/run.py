"""The run under test: the real command line in one process after the other, each resuming the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs import exits
from configs.load import to_yaml
from learner.state.event_log import read_events
from tests.chaos.broken import Broken
from tests.chaos.servers import Servers
from tests.learner.tiny_run import tiny_run

ROOT = Path(__file__).resolve().parents[2]
MANY = 1_000_000
"""More steps than the run ever makes; the final number is set at the end."""
STALLED = 600.0
"""Seconds within which the run must have made a step, or it hangs. A start takes minutes on a busy machine."""
MAY_BE_TRIED_AGAIN = {exits.RESUMABLE, exits.TERMINATED, -signal.SIGKILL}


@dataclass
class Life:
    """One process of the run: when it began (seconds since the epoch), and its exit code if it has ended."""

    process: subprocess.Popen[bytes]
    began: float
    code: int | None = None


class Run:
    """The run and its lives so far."""

    def __init__(self, folder: Path, servers: Servers, seed: int) -> None:
        """Makes a tiny editor and writes the configuration; nothing is started."""
        # Imported here: diffusers must be silenced first.
        from tests.tiny_kontext import make_tiny_kontext

        self.folder = folder / "run"
        self._config = folder / "run.yaml"
        self._config.write_text(
            to_yaml(
                tiny_run(
                    make_tiny_kontext(folder / "editor"),
                    folder,
                    "run",
                    {
                        "seed": seed,
                        "data": {"train_tasks": 64, "held_out_tasks": 1},
                        "rewards": {
                            "weights": {"qwen_vl": 1.0, "background_psnr": 0.5},
                            "judge": {
                                "qwen_vl": {"urls": [one.url for one in servers.judges], "revision": "1"},
                                "deadline": 10.0,
                                "patience": 120.0,
                            },
                        },
                        "redis": {"mode": "url", "url": servers.cache.url},
                        "learner": {"steps": MANY, "groups_per_step": 4, "optimizer": {"lr": 1e-4}},
                        "checkpoint": {"every": 3},
                        "cluster": {
                            "mode": "ray",
                            "staleness": 2,
                            "rollout_workers": 2,
                            "groups_in_flight": 2,
                            "max_attempts": 50,
                            "max_restarts": 50,
                            "group_timeout": STALLED,
                        },
                        "report": {"gallery_tasks": 0, "gallery_groups": 0},
                    },
                )
            )
        )
        self.lives: list[Life] = []
        self._heard = 0.0

    def start(self, *flags: str) -> None:
        """The next life."""
        command = [sys.executable, "-m", "cluster.resume_or_start", "--", "--config", str(self._config), *flags]
        with (self._config.parent / f"said-{len(self.lives):03d}.txt").open("wb") as said:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RAY_AUTH_MODE": "token"},
            )
        self.lives.append(Life(process, time.time()))
        self._heard = time.monotonic()

    @property
    def life(self) -> Life:
        return self.lives[-1]

    def ended(self) -> int | None:
        """The exit code of the present life; None while it lives.

        Raises:
            Broken: when it ended in a way that another attempt would not mend.
        """
        code = self.life.process.poll()
        if code is not None and self.life.code is None:
            self.life.code = code
            if code not in MAY_BE_TRIED_AGAIN | {exits.DONE}:
                raise Broken(f"The run ended with exit code {code}. {self.said()}")
        return code

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The event log of all lives, or one kind of its lines."""
        return [event for event in read_events(self.folder / "events.jsonl") if kind in ("", event["event"])]

    def of_this_life(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events(kind) if event["time"] >= self.life.began]

    def works(self) -> bool:
        """Whether the present life has made a step.

        Raises:
            Broken: when there has been none for too long.
        """
        steps = self.of_this_life("step")
        if steps:
            self._heard = max(self._heard, time.monotonic() - (time.time() - steps[-1]["time"]))
        if time.monotonic() - self._heard > STALLED:
            raise Broken(f"There was no step for {STALLED:g} s. {self.said()}")
        return bool(steps)

    def busy(self) -> bool:
        """Whether groups are being scored at the moment."""
        scored = self.of_this_life("scored")
        return bool(scored) and time.time() - scored[-1]["time"] < 2.0

    def steps_made(self) -> int:
        """How often a step was made, by all lives together."""
        return len(self.events("step"))

    def workers(self) -> list[int]:
        """The rollout workers of the present life that have started and are not known to be gone."""
        gone = {event["pid"] for kind in ("worker_lost", "worker_drained") for event in self.of_this_life(kind)}
        return [
            event["pid"]
            for event in self.of_this_life("worker_started")
            if event["pid"] not in gone and psutil.pid_exists(event["pid"])
        ]

    def actor(self, name: str) -> int | None:
        """The process of the present life in which Ray holds an actor of that class."""
        try:
            family = psutil.Process(self.life.process.pid).children(recursive=True)
            return next((one.pid for one in family if f"ray::{name}" in " ".join(one.cmdline())), None)
        except psutil.NoSuchProcess:
            return None

    def steps_saved(self) -> int:
        return max(int(path.name.removeprefix("step_")) for path in (self.folder / "checkpoints").glob("step_*"))

    def said(self) -> str:
        """The last lines of the present life."""
        file = self._config.parent / f"said-{len(self.lives) - 1:03d}.txt"
        return f"It said:\n{file.read_text(errors='replace')[-3000:]}"

    def wait(self, codes: Sequence[int], seconds: float) -> None:
        """Waits for the end of the present life.

        Raises:
            Broken: when it does not end in time with one of these exit codes.
        """
        deadline = time.monotonic() + seconds
        while self.ended() is None:
            if time.monotonic() > deadline:
                raise Broken(f"The run did not end within {seconds:g} s. {self.said()}")
            time.sleep(0.1)
        if self.life.code not in codes:
            raise Broken(f"The run ended with exit code {self.life.code}, expected {list(codes)}. {self.said()}")
