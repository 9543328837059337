"""The servers of one judge, however they are launched: which are up, and when a lost one is started again. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from configs.judges import JudgeConfig, ServeConfig
from locus.common.restarts import RestartPolicy

Name = Literal["editscore", "qwen_vl"]

POLICY = RestartPolicy(restarts=None, first_delay=1.0, longest_delay=60.0, settled=600.0)
"""Of servers that were up once. The time counts from when a server was up."""
PLACING = 60.0
"""Seconds beyond `serve.start_timeout`, which a server counts for itself, for being scheduled."""


class ServersFailed(RuntimeError):
    """The judge's servers cannot be started; the sentence says why."""


@dataclass(frozen=True)
class Served:
    """A server that has responded to a test image."""

    url: str
    pid: int
    seconds: float


class Launched(Protocol):
    """A server on its way up, or up."""

    def end(self) -> None:
        """Ends it without waiting, and reports nothing more."""
        ...


Launch = Callable[[int, int, Callable[[Served], None], Callable[[str], None]], Launched]
"""`launch(replica, attempt, ready, lost)` starts a server; later it calls `ready` once at most, and `lost(reason)` once
when the server is gone, whether it was ready or not."""


@dataclass(eq=False)
class _Slot:
    number: int
    since: float = 0.0
    attempt: int = 0
    losses: int = 0  # in a row
    again_at: float = 0.0
    launched: Launched | None = None
    served: Served | None = None


class Replicas:
    """Keeps `serve.replicas` servers of one judge alive. All calls come from one thread.

    The first start of every server must succeed; one that is lost later is started again, without limit.
    """

    def __init__(
        self,
        judge: JudgeConfig,
        name: Name,
        launch: Launch,
        notify: Callable[..., None],
        urls_changed: Callable[[list[str]], None],
    ) -> None:
        self._name, self._launch, self._notify, self._urls_changed = name, launch, notify, urls_changed
        self.serve: ServeConfig = getattr(judge, name).serve
        self._slots = [_Slot(number) for number in range(self.serve.replicas)]
        self._complete = False

    def start(self) -> None:
        """Launches all servers; `ready` says when they are up."""
        for slot in self._slots:
            self._up(slot)

    @property
    def ready(self) -> bool:
        """Whether every server has been up at the same time; stays so when one is lost."""
        return self._complete

    def urls(self) -> list[str]:
        """The base addresses of the servers that are up."""
        return [slot.served.url for slot in self._slots if slot.served is not None]

    def check(self) -> None:
        """Starts again those that are due, and ends those that take too long. To be called every few seconds.

        Raises:
            ServersFailed: when a server did not come up at the beginning.
        """
        now, limit = time.monotonic(), self.serve.start_timeout + PLACING
        for slot in self._slots:
            if slot.launched is None and now >= slot.again_at:
                self._up(slot)
            elif slot.launched is not None and slot.served is None and now - slot.since > limit:
                slot.launched.end()
                self._lost(
                    slot,
                    slot.attempt,
                    f"a server was not up within {limit:g} s (serve.start_timeout and "
                    f"{PLACING:g} more); does the cluster have {self.serve.gpus:g} free GPUs for each "
                    "(serve.gpus)?",
                )

    def end(self) -> list[Launched]:
        """Starts nothing more; what was launched is for the caller to end."""
        launched = [slot.launched for slot in self._slots if slot.launched is not None]
        self._slots = []
        return launched

    def _up(self, slot: _Slot) -> None:
        slot.since, slot.attempt = time.monotonic(), slot.attempt + 1
        attempt = slot.attempt
        slot.launched = self._launch(
            slot.number,
            attempt,
            lambda served: self._is_up(slot, attempt, served),
            lambda reason: self._lost(slot, attempt, reason),
        )

    def _is_up(self, slot: _Slot, attempt: int, served: Served) -> None:
        if slot not in self._slots or attempt != slot.attempt:
            return
        slot.served, slot.since = served, time.monotonic()
        self._complete = self._complete or all(one.served is not None for one in self._slots)
        self._notify(
            "judge_server_started",
            judge=self._name,
            replica=slot.number,
            url=served.url,
            pid=served.pid,
            seconds=round(served.seconds, 3),
        )
        self._urls_changed(self.urls())

    def _lost(self, slot: _Slot, attempt: int, reason: str) -> None:
        if slot not in self._slots or attempt != slot.attempt or slot.launched is None:
            return
        served, slot.served, slot.launched = slot.served, None, None
        if not self.ready and served is None:
            raise ServersFailed(f"rewards.judge.{self._name}.serve: {reason}")
        slot.losses = POLICY.row(slot.losses, 0.0 if served is None else time.monotonic() - slot.since)
        delay = POLICY.delay(slot.losses)
        slot.again_at = time.monotonic() + delay
        self._notify(
            "judge_server_lost",
            judge=self._name,
            replica=slot.number,
            pid=None if served is None else served.pid,
            reason=reason,
            again_in=delay,
        )
        if served is not None:
            self._urls_changed(self.urls())


def log_of(folder: Path, name: str, replica: int, attempt: int) -> Path:
    """Where a server's log goes: never into an older one, not even when a run is continued."""
    stem = f"{name}-{replica}"
    for number in range(attempt, attempt + 100_000):
        path = folder / "judges" / f"{stem}-{number}.log"
        if not path.exists():
            return path
    raise FileExistsError(f"{folder / 'judges'} is full of logs")


def settings(judge: JudgeConfig, name: Name) -> tuple[ServeConfig, str]:
    """How a judge is served, and under which name."""
    one: Any = getattr(judge, name)
    return one.serve, one.model


def merged_folder(folder: Path) -> Path:
    """Where merged checkpoints are kept: beside the run folders, so that the next run finds them."""
    return folder.parent / ".merged"


def no_gpus(wanted: float, seen: float) -> str:
    """The sentence for a machine that cannot serve."""
    return (
        f"expected {wanted:g} GPUs for each server (serve.gpus), and this machine has {seen:g}. With serve.gpus 0 "
        "they run on the CPU, which is only for testing."
    )
