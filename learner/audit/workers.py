"""The processes that generate: each proves published weights first, and generates nothing once it is gone."""

from __future__ import annotations

from collections import Counter

from learner.audit.history import History, Rule
from learner.state.event_types import Began, Published
from learner.state.group_events import Generated
from learner.state.service_events import WeightsRepushed, WorkerDrained, WorkerLost, WorkerStarted


class Workers(Rule):
    """The live workers. Two machines may use the same process id, so they are counted."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._there: Counter[int] = Counter()
        self._versions: set[int] = set()  # published by this process

    def begin(self, record: Began) -> None:
        self._there.clear()
        self._versions.clear()

    def on_published(self, record: Published) -> None:
        self._versions.add(record.version)

    def on_worker_started(self, record: WorkerStarted) -> None:
        self._there[record.pid] += 1
        self._is_published(record.version)

    def on_weights_repushed(self, record: WeightsRepushed) -> None:
        self._is_there(record.pid, "got its weights again")
        self._is_published(record.version)

    def on_worker_lost(self, record: WorkerLost | WorkerDrained) -> None:
        if self._is_there(record.pid, "ended") and record.pid is not None:
            self._there[record.pid] -= 1

    on_worker_drained = on_worker_lost

    def on_generated(self, record: Generated) -> None:
        self._is_there(record.pid, f"generated group {record.group}")

    def _is_there(self, pid: int | None, what: str) -> bool:
        """`pid` is null of a worker that has proved nothing yet."""
        there = pid is None or self._there[pid] > 0
        if not there:
            self.history.fault("P4", f"process {pid} {what}, but no line says that it started and proved its weights")
        return there

    def _is_published(self, version: int) -> None:
        # A worker may have proved weights before the line of their publication.
        if version not in self._versions and version != self.history.done:
            self.history.fault("P4", f"a worker held version {version}, which was not published")
