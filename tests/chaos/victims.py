"""The faults that are injected into a run, one at a time, and the evidence in the event log that each happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.chaos.run import ROOT, Run
from tests.chaos.servers import Servers

SIZES = (2, 3)
"""Numbers of rollout workers that are requested."""
AWAY = (4.0, 9.0)
"""Seconds for which a judge or the cache stays away, at least."""


@dataclass(frozen=True)
class Struck:
    """One fault: when (seconds since the epoch), in which life of the run, and to which process (or which size)."""

    kind: str
    time: float
    life: int
    what: int


Fault = Callable[[Run, Servers, random.Random], int | None]
"""Injects the fault and returns its target; None when that is impossible at the moment."""


def _kill(pid: int | None) -> int | None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def kill_worker(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """A rollout worker."""
    workers = run.workers() if run.works() else []
    return _kill(draw.choice(workers)) if workers else None


def kill_judge(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """One judge of two; never the last one, so that the run has no reason to stop."""
    if not run.busy() or len(servers.here()) < 2:
        return None
    judge = draw.choice(servers.here())
    pid = judge.process.pid
    servers.kill(judge, draw.uniform(*AWAY), len(run.lives), run.steps_made())
    return pid


def kill_cache(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """The score cache."""
    if not run.busy() or not servers.cache_is_here():
        return None
    servers.kill(servers.cache, draw.uniform(*AWAY), len(run.lives), run.steps_made())
    return 0


def kill_learner(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """The learner's process: the driver must end with the retryable exit code."""
    return _kill(run.actor("LearnerHost")) if run.works() else None


def kill_pool(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """The reward pool's process: as for the learner's."""
    return _kill(run.actor("PoolActor")) if run.works() else None


def kill_driver(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """The driver while the run works."""
    return _kill(run.life.process.pid) if run.works() else None


def kill_driver_that_starts(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """The driver of a run that is being resumed and has made no step yet."""
    return None if run.works() else _kill(run.life.process.pid)


def resize(run: Run, servers: Servers, draw: random.Random) -> int | None:
    """Another number of rollout workers, with the command that a user types."""
    if not run.works():
        return None
    resized = run.events("fleet_resized")
    size = draw.choice([one for one in SIZES if one != (resized[-1]["after"] if resized else 2)])
    subprocess.run(
        [sys.executable, "-m", "cluster.scale", str(run.folder), "--rollout-workers", str(size)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return size


FAULTS: Mapping[str, tuple[Fault, int]] = {
    "rollout worker killed": (kill_worker, 4),
    "judge killed": (kill_judge, 3),
    "score cache killed": (kill_cache, 2),
    "learner killed": (kill_learner, 1),
    "reward pool killed": (kill_pool, 1),
    "driver killed": (kill_driver, 1),
    "starting driver killed": (kill_driver_that_starts, 1),
    "fleet resized": (resize, 3),
}
"""Each fault, and how often it is injected in a round."""


class Round:
    """Injects the faults in seeded order, all of a round before the next one begins."""

    def __init__(self, draw: random.Random) -> None:
        self._draw, self._left = draw, list[str]()
        self.struck: list[Struck] = []

    def strike(self, run: Run, servers: Servers) -> Struck | None:
        """Injects the first fault in line that is possible now; None when none is."""
        if not self._left:
            self._left = [kind for kind, (_, times) in FAULTS.items() for _ in range(times)]
            self._draw.shuffle(self._left)
        for kind in dict.fromkeys(self._left):
            now, life = time.time(), len(run.lives) - 1
            what = FAULTS[kind][0](run, servers, self._draw)
            if what is not None:
                self._left.remove(kind)
                self.struck.append(Struck(kind, now, life, what))
                return self.struck[-1]
        return None

    def everything_was_struck(self) -> bool:
        return {one.kind for one in self.struck} == set(FAULTS)


def witnessed(struck: Struck, run: Run, events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the event log, or the exit code of the life, shows that the fault happened."""
    life = run.lives[struck.life]
    ended = run.lives[struck.life + 1].began if struck.life + 1 < len(run.lives) else float("inf")
    later = [event for event in events if event["time"] >= struck.time - 0.01]
    same_life = [event for event in later if event["time"] < ended]

    def told(kind: str, lines: Sequence[Mapping[str, Any]] = same_life, **fields: object) -> bool:
        return any(
            event["event"] == kind and all(event[name] == value for name, value in fields.items()) for event in lines
        )

    if struck.kind == "rollout worker killed":
        return told("worker_lost", pid=struck.what)
    if struck.kind == "judge killed":
        return told("judge_trouble", servers=1)
    if struck.kind == "score cache killed":
        return told("cache_trouble")
    if struck.kind == "learner killed":
        return told("failed", error="LearnerLost")
    if struck.kind == "reward pool killed":
        return any(event["event"] == "failed" and "reward pool died" in event["reason"] for event in same_life)
    if struck.kind == "fleet resized":
        return told("fleet_resized", later, after=struck.what)
    return life.code == -signal.SIGKILL and not told("failed") and told("resumed", later)
