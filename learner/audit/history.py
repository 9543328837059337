"""State of the run after the lines read so far, shared by the rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from learner.state.event_types import Began

PROMISES = {
    "log": "the event log is whole: every line that must be there is there, once and in order",
    "P1": "no group is trained on twice, and every step has all its groups",
    "P2": "no group is lost silently: every lease ends in one way, and the counts add up",
    "P3": "no group is older than cluster.staleness when it is trained on",
    "P4": "a group is made by one process under one published version, and a version has one set of weights",
    "P5": "what was trained on could be taken again: it was on disk before, or the event log says why not",
    "P6": "what was trained on has as many valid scores as rewards.min_valid asks for",
    "P7": "a process goes on from the newest checkpoint, as the run was configured, or says why not",
}


@dataclass
class Saved:
    """A checkpoint in the event log, and the process that made it."""

    step: int
    by: Began


@dataclass
class History:
    """Where the run is after the lines so far, and the faults in them.

    Attributes:
        line: number of the present line, from 1.
        last: event of the line before, or an empty text.
        began: the process that the lines are of; None as long as none has begun.
        done: optimizer steps in the weights, and the most that there ever were.
        closing: whether step `done` has all its groups and its own line is still to come.
        published: version that this process published last.
        saved: checkpoints that may be gone on from, the newest last.
        must_follow: the only events that may come next, if so.
    """

    faults: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in PROMISES})
    counts: Counter[str] = field(default_factory=Counter)
    line: int = 0
    last: str = ""
    began: Began | None = None
    done: int = 0
    furthest: int = 0
    closing: bool = False
    published: int | None = None
    saved: list[Saved] = field(default_factory=list)
    must_follow: tuple[str, ...] = ()

    def fault(self, promise: str, sentence: str, line: int | None = None) -> None:
        """Notes a fault of the present line, or of another."""
        self.faults[promise].append(f"line {self.line if line is None else line}: {sentence}")

    @property
    def process(self) -> Began:
        """The process that the lines are of."""
        assert self.began is not None, "rules see no line before a process began"
        return self.began

    def forget_after(self, step: int) -> None:
        """Checkpoints of more than `step` optimizer steps are gone."""
        while self.saved and self.saved[-1].step > step:
            self.saved.pop()


class Rule:
    """What one subject must satisfy. A method `on_<event>` is given the record of each line of that event."""

    def __init__(self, history: History) -> None:
        self.history = history

    def begin(self, record: Began) -> None:
        """A process begins; `history.began` is it already."""

    def close(self) -> None:
        """The event log ends here."""
