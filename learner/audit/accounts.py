"""leased = trained + rejected + requeued + in flight: the counters of every step are those of the lines before it."""

from __future__ import annotations

from collections import Counter

from learner.audit.history import History, Rule
from learner.state.event_record import Record
from learner.state.event_types import Began, Step
from learner.state.group_events import Trained

ENDS = ("trained", "rejected", "requeued")


class Accounts(Rule):
    """Counts lines. Counters are of the surviving weights: a resume goes on with those of its checkpoint."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._now: Counter[str] = Counter()
        self._counters_by_step: list[tuple[int, Counter[str]]] = []  # the steps done, and the counters then

    def begin(self, record: Began) -> None:
        while self._counters_by_step and self._counters_by_step[-1][0] > record.step:
            self._counters_by_step.pop()
        found = self._counters_by_step and self._counters_by_step[-1][0] == record.step
        self._now = Counter(self._counters_by_step[-1][1]) if found else Counter()
        self._now["requeued"] += self._in_flight()  # what was in flight then is no longer awaited

    def _in_flight(self) -> int:
        return self._now["leased"] - sum(self._now[end] for end in ENDS)

    def on_leased(self, record: Record) -> None:
        self._now["leased"] += 1
        self.history.counts["leased"] += 1

    def on_replayed(self, record: Record) -> None:
        self._now.update(("leased", "replayed"))

    def on_trained(self, record: Trained) -> None:
        self._now["trained"] += 1
        if self.history.closing:
            self._counters_by_step.append((self.history.done, Counter(self._now)))

    def on_rejected(self, record: Record) -> None:
        self._now["rejected"] += 1
        self.history.counts["rejected"] += 1

    def on_requeued(self, record: Record) -> None:
        self._now["requeued"] += 1
        self.history.counts["requeued"] += 1

    def on_step(self, record: Step) -> None:
        told = record.counters.model_dump()
        mine = {name: self._in_flight() if name == "in_flight" else self._now[name] for name in told}
        if told != mine:
            differ = ", ".join(
                f"{name} {told[name]} instead of {mine[name]}" for name in told if told[name] != mine[name]
            )
            self.history.fault("P2", f"step {record.step} does not count what the lines before it say: {differ}")
