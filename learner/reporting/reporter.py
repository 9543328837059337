"""The event log and the observers of a run, fed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from learner.reporting.notifications import notice
from learner.reporting.records import EvaluationRecord, GroupRecord, Observer, RunRecord, StepRecord
from learner.reporting.reward_stats import REWARD
from learner.state.event_log import EventLog
from learner.state.event_types import Event


class Reporter:
    """Writes what happens into the event log and hands it on to the observers."""

    def __init__(self, events: EventLog, observers: Sequence[Observer]) -> None:
        self._events, self._observers = events, list(observers)

    def add(self, observer: Observer) -> None:
        """Adds an observer from now on."""
        self._observers.append(observer)

    def write(self, event: Event, **fields: Any) -> None:
        """An event for the event log alone."""
        self._events.write(event, **fields)

    def announce(self, event: Event, **fields: Any) -> None:
        """An event for the event log, and its notification, if it has one, for the observers."""
        self._events.write(event, **fields)
        sentence = notice(event, fields)
        if sentence is not None:
            for observer in self._observers:
                observer.on_notice(sentence)

    def start(self, record: RunRecord) -> None:
        """The run begins; processes start next."""
        for observer in self._observers:
            observer.on_start(record)

    def group(self, record: GroupRecord) -> None:
        """A group went to the learner."""
        for observer in self._observers:
            observer.on_group(record)

    def step(self, record: StepRecord) -> None:
        """An optimizer step is done."""
        self._events.write(
            "step",
            step=record.step,
            reward_mean=record.reward_mean[REWARD],
            reward_std=record.reward_std[REWARD],
            gradient_norm=record.learner.get("gradient_norm"),
            lr=record.learner["lr"],
            counters=asdict(record.counters),
        )
        for observer in self._observers:
            observer.on_step(record)

    def evaluation(self, record: EvaluationRecord, not_finite: int) -> None:
        """The held-out tasks were measured; of so many the editor makes no image."""
        self._events.write(
            "evaluated",
            label=record.label,
            step=record.step,
            tasks=record.tasks,
            not_finite=not_finite,
            mean=record.mean,
            standard_error=record.standard_error,
            fingerprint=None if record.running_mean is None else record.running_mean.fingerprint,
        )
        for observer in self._observers:
            observer.on_evaluation(record)

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run ended well."""
        for observer in self._observers:
            observer.on_end(summary)
