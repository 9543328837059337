"""A user's scorer as the reward pool sees it: awaited, alive or not, and replaced when its process is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock

from rewards.plugin.process import ScorerError, ScorerLost, ScorerProcess
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.threads import in_thread

LONGEST_BACKOFF = 8.0
"""Seconds between two starts of a process that is lost again and again: none after the first loss, then 1, 2, 4, 8."""
MOST_DOUBLINGS = 16
"""Far beyond the longest backoff: a thousand losses in a row must not overflow."""


class OwnScorer:
    """Scores groups in processes that run the user's function; a loss costs the group in the process's hands only."""

    def __init__(self, name: str, dotted: str, deadline: float, processes: int = 1) -> None:
        """Returns when all processes have loaded the function.

        Args:
            name: the component.
            dotted: `package.module:function`, of the form that the configuration has checked.
            deadline: seconds for one group.
            processes: groups that are scored at the same time.

        Raises:
            ScorerError: when there is no such function; the sentence names `rewards.scorers.NAME`.
        """
        self._who, self._deadline, self._closing = f"{name} ({dotted})", deadline, Event()
        self._slots = [_WorkerSlot(name, dotted, self._closing) for _ in range(processes)]
        self._idle: SimpleQueue[_WorkerSlot] = SimpleQueue()
        for slot in self._slots:
            self._idle.put(slot)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix=f"scorer {name}")
        try:
            for loading in [self._threads.submit(slot.fill) for slot in self._slots]:
                loading.result()
        except ScorerLost as lost:
            self.close()
            raise ScorerError(f"rewards.scorers.{name}: {dotted}: {lost}") from lost
        except BaseException:
            self.close()
            raise

    async def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        """One score per candidate; errors where the process was lost."""
        return await in_thread(self._threads, self._scored, given)

    @property
    def alive(self) -> bool:
        """Whether there is a process that can score; one that ended by itself begins to be replaced."""
        for slot in self._slots:
            if not slot.alive:
                self._replace(slot)
        return any(slot.alive for slot in self._slots)

    def close(self) -> None:
        """Ends the processes, and what waits for them in error."""
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for slot in self._slots:
            slot.close()

    def _scored(self, given: ScoreInput) -> tuple[Score, ...]:
        slot = self._idle.get()  # there are no more threads than slots
        try:
            return slot.ask(given, self._deadline)
        except (ScorerLost, ScorerError) as error:
            self._replace(slot)
            return (Score(error=f"{self._who}: {error}"),) * len(given.images)
        finally:
            self._idle.put(slot)

    def _replace(self, slot: _WorkerSlot) -> None:
        """Begins to fill the slot, after the requests that wait already; each of them would fill it, too."""
        if not slot.replacing.is_set():
            slot.replacing.set()
            with suppress(RuntimeError):  # closed
                self._threads.submit(self._refill, slot)

    def _refill(self, slot: _WorkerSlot) -> None:
        try:
            slot.fill()
        except (ScorerLost, ScorerError):
            slot.replacing.clear()
            self._replace(slot)
        else:
            slot.replacing.clear()


class _WorkerSlot:
    """A worker slot: a process and, once it is lost, its replacement."""

    def __init__(self, name: str, dotted: str, closing: Event) -> None:
        self._name, self._dotted, self._closing = name, dotted, closing
        self._process: ScorerProcess | None = None
        self._losses = 0  # in a row
        self._lock = Lock()
        self.replacing = Event()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def fill(self) -> None:
        """Starts a process if there is none, after a backoff that grows with the losses in a row."""
        with self._lock:
            self._fill()

    def ask(self, given: ScoreInput, deadline: float) -> tuple[Score, ...]:
        with self._lock:
            self._fill()
            assert self._process is not None
            try:
                scores = self._process.ask(given, deadline)
            except ScorerLost:
                self._losses += 1
                raise
            self._losses = 0
            return scores

    def close(self) -> None:
        with self._lock:  # whoever has it gives up soon, since `closing` is set
            if self._process is not None:
                self._process.close()

    def _fill(self) -> None:
        if self.alive:
            return
        if self._losses > 1:
            self._closing.wait(min(LONGEST_BACKOFF, 2.0 ** min(self._losses - 2, MOST_DOUBLINGS)))
        if self._closing.is_set():  # no one would end another process
            raise ScorerLost("the reward pool is closed")
        if self._process is not None:
            self._process.close()  # what it has started may be left
        try:
            self._process = ScorerProcess(self._name, self._dotted, self._closing)
        except (ScorerLost, ScorerError):
            self._losses += 1
            raise
