"""Guards around observers: what they raise is logged, and training and saving go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from learner.log import warn
from learner.reporting.records import EvaluationRecord, GroupRecord, Observer, RunRecord, StepRecord

HARMLESS = (Exception, SystemExit)
"""Whatever it is: a report is never worth a run. Libraries for terminals exit where the reader has ended."""


class Harmless:
    """An observer whose errors are logged, once per kind of call, instead of raised.

    It is called again the next time: the failure may have been temporary. KeyboardInterrupt goes through, as it is a
    request to stop and no fault of the report.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._said: set[str] = set()

    def on_start(self, record: RunRecord) -> None:
        self._tell(self._observer.on_start, record)

    def on_notice(self, sentence: str) -> None:
        self._tell(self._observer.on_notice, sentence)

    def on_group(self, record: GroupRecord) -> None:
        self._tell(self._observer.on_group, record)

    def on_step(self, record: StepRecord) -> None:
        self._tell(self._observer.on_step, record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        self._tell(self._observer.on_evaluation, record)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self._tell(self._observer.on_end, summary)

    def close(self) -> None:
        """Closes the observer, if that is something it does."""
        close = getattr(self._observer, "close", None)
        if close is not None:
            self._tell(close)

    def _tell(self, call: Callable[..., None], *what: object) -> None:
        try:
            call(*what)
        except HARMLESS as error:
            if call.__name__ not in self._said:
                self._said.add(call.__name__)
                _failed(type(self._observer).__name__, call.__name__, error)


def made(kind: type[Observer], make: Callable[[], Observer]) -> list[Observer]:
    """What `make` gives, `Harmless`; no observer, and a warning, where it raises."""
    try:
        return [Harmless(make())]
    except HARMLESS as error:
        _failed(kind.__name__, "__init__", error)
        return []


def _failed(report: str, call: str, error: BaseException) -> None:
    warn("report_failed", report=report, call=call, reason=f"{type(error).__name__}: {error}")
