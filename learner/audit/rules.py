"""All rules together, and what they find in an event log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from learner.audit.accounts import Accounts
from learner.audit.groups import Groups
from learner.audit.history import History, Rule
from learner.audit.lines import Line, read_lines
from learner.audit.processes import Processes
from learner.audit.steps import Steps
from learner.audit.weights import Weights
from learner.audit.workers import Workers
from learner.state.checkpoint import newest_step
from learner.state.event_types import RECORDS, Began, Failed

RULES = (Processes, Groups, Steps, Accounts, Weights, Workers)
"""In the order in which they see a line."""

NO_RULE = frozenset(
    {
        "data_faults",
        "data_remarks",
        "worker_given_up",
        "fleet_resized",
        "resize_refused",
        "judges_awaited",
        "judge_ready",
        "judge_trouble",
        "cache_trouble",
        "judge_server_started",
        "judge_server_lost",
        "start_measured",
        "alarm",
        "spool_refused",
    }
)
"""Events that notify the operator and prove nothing."""


class Audit:
    """Follows an event log line by line.

    Attributes:
        faults: sentences by promise, see `history.PROMISES`.
        counts: of lines, by what they tell.
        finished: whether the run is at its end.
        end: how the event log ends, as a sentence.
    """

    def __init__(self) -> None:
        self.history = History()
        self.faults, self.counts = self.history.faults, self.history.counts
        self._steps = Steps(self.history)
        self._rules: list[Rule] = [self._steps if rule is Steps else rule(self.history) for rule in RULES]
        self._handlers: dict[str, list[Callable[[Any], None]]] = {
            event: [handler for rule in self._rules if (handler := getattr(rule, f"on_{event}", None)) is not None]
            for event in RECORDS
        }
        self.finished, self.end = False, ""

    @property
    def trained(self) -> set[tuple[int, int]]:
        """Step and slot of every group in the surviving weights."""
        return {(step.number, slot) for step in self._steps.steps for slot in step.groups}

    def follow(self, line: Line) -> None:
        """Takes the next line."""
        history, record = self.history, line.record
        history.line = line.number
        if history.must_follow and line.event not in history.must_follow:
            history.fault("log", f"after {history.last} expected {' or '.join(history.must_follow)}, got {line.event}")
        history.must_follow = ()
        if history.began is None and not isinstance(record, Began):
            if not history.last:
                history.fault("log", f"expected the first line to say that the run started, got {line.event}")
        else:
            for handler in self._handlers[line.event]:
                handler(record)
        if isinstance(record, Began):
            history.began = record
            for rule in self._rules:
                rule.begin(record)
        history.last = line.event
        self.end = f"ended by {record.error!r}: {record.reason!r}" if isinstance(record, Failed) else ""

    def close(self) -> None:
        """The event log ends here."""
        history = self.history
        if not history.last:
            history.fault("log", "expected the run to start, got no event")
        for rule in self._rules:
            rule.close()
        self.finished = history.last == "finished"
        of = f"after {history.done} of {history.began.steps} steps" if history.began is not None else "before it began"
        self.end = (
            f"finished {of}"
            if self.finished
            else f"not finished: {of} "
            + (self.end or f"the last line is {history.last or 'none'}; the process was killed, or goes on")
        )


def audited(path: Path) -> Audit:
    """The audit of an event log, and of the checkpoints beside it.

    Raises:
        OSError: when it cannot be read.
    """
    audit = Audit()
    for line in read_lines(path, lambda number, sentence: audit.history.fault("log", sentence, number)):
        audit.follow(line)
    audit.close()
    newest = newest_step(path.parent / "checkpoints")
    if newest is not None and newest > audit.history.furthest:
        audit.history.fault(
            "log",
            f"checkpoints/ has one of step {newest}, but the lines tell of "
            f"{audit.history.furthest} steps: lines were taken out",
        )
    return audit
