"""Reader of an event log that trusts none of its lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.text import shown
from learner.state.event_log import FIRST, digest
from learner.state.event_record import Count, EventError, Hex, Record, Seconds, validated
from learner.state.event_types import read_record

NEW_PROCESS = ("started", "resumed", "rolled_back")
"""What may follow a line that a crash cut off: only another process finds it."""


LARGEST_STEP = 3600.0
"""Seconds by which a clock that is set goes back at most; one that is kept in step goes back by far less."""
SMALLEST_STEP = 0.01
LEAST_STEPS, STEPS_SHARE = 3, 0.05
"""A process may see its clock go back so often, or at this share of its lines: some machines' clocks are set anew every
few seconds."""


class Head(Record):
    """What every line has besides the fields of its event."""

    seq: Count
    time: Seconds
    previous: Hex
    event: str


@dataclass(frozen=True)
class Line:
    """A whole line that is as `learner.state.event_types` describes it; `number` counts from 1."""

    number: int
    event: str
    record: Record


class LineError(ValueError):
    """A line is not an event; the sentence says why."""


class NotJson(LineError):
    """A line is not even JSON."""


def read_lines(path: Path, fault: Callable[[int, str], None]) -> Iterator[Line]:
    """The lines of a file that are events; `fault(number, sentence)` hears of the others, and of lines that do not
    follow those before them. A line that a crash cut off is not a fault.

    Raises:
        OSError: when the file cannot be read.
    """
    seq, previous, cut_off, clock = 0, FIRST, 0, _Clock(fault)
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            text = raw.removesuffix(b"\n")
            try:
                values = _values(text)
            except LineError as error:
                if isinstance(error, NotJson) and _is_beginning(text, seq):
                    cut_off = number
                else:
                    fault(number, str(error))
                continue
            if cut_off and values.get("event") not in NEW_PROCESS:
                fault(cut_off, "it is cut off, but the process that wrote it went on")
            cut_off, before, previous = 0, previous, digest(text)
            try:
                head = validated(Head, {name: values.pop(name) for name in Head.model_fields if name in values})
                if head.seq != seq:
                    fault(number, f"expected seq {seq}, got {head.seq}")
                if head.previous != before:
                    fault(
                        number,
                        f"expected previous {before}, the digest of the line before, got {head.previous}: "
                        "a line was changed, moved, added or taken out",
                    )
                seq = head.seq + 1
                clock.shows(number, head)
                yield Line(number, head.event, read_record(head.event, values))
            except EventError as error:
                fault(number, f"expected a line as learner.state.event_types describes it: {error}")
            except RecursionError:
                fault(number, "expected an event, got JSON that is nested too deeply")
    clock.ends()


class _Clock:
    """The times of a process's lines, which do not run backwards but where its clock is set; each process has its own
    clock."""

    def __init__(self, fault: Callable[[int, str], None]) -> None:
        self._fault = fault
        self._line, self._lines, self._back, self._time = 0, 0, 0, 0.0

    def shows(self, number: int, head: Head) -> None:
        """The time of the next line."""
        if head.event in NEW_PROCESS:
            self.ends()
            self._lines, self._back, self._time = 0, 0, 0.0
        back = self._time - head.time
        if back > LARGEST_STEP:
            self._fault(number, f"its time is {back:.0f} s before that of the line before it")
        self._back += back > SMALLEST_STEP
        self._line, self._lines, self._time = number, self._lines + 1, head.time

    def ends(self) -> None:
        """There are no further lines of this process."""
        if self._back > max(LEAST_STEPS, STEPS_SHARE * self._lines):
            self._fault(self._line, f"time ran backwards at {self._back} of the {self._lines} lines of this process")


def _is_beginning(text: bytes, seq: int) -> bool:
    """Whether this may be the beginning of the next line: what a crash cuts off."""
    start = f'{{"seq": {seq}, "time": '.encode()
    return (
        bool(text)
        and (start.startswith(text) or text.startswith(start))
        and (text.isascii() and text.decode("ascii").isprintable())
    )


def _values(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except LineError:
        raise
    except ValueError as error:
        raise NotJson(f"expected JSON, got {shown(text[:60])}") from error
    except RecursionError as error:
        raise LineError("expected an event, got JSON that is nested too deeply") from error
    if not isinstance(values, dict):
        raise LineError(f"expected a JSON object, got {shown(text[:60])}")
    return values


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise LineError(f"the key {shown(key)} is there twice")
        found[key] = value
    return found


def _no_number(word: str) -> Any:
    raise LineError(f"expected finite numbers, got {word}")
