"""The run's event log: `events.jsonl`, one JSON object per line, only ever appended to.

What happened to every lease can be read from it alone. Each line has `seq` (0, 1, 2, ... over the whole life of
the run folder, resumes included), `time` (seconds since the epoch), `previous` (digest of the line before, so that no
line can be changed, moved or taken out unnoticed) and `event`; the other fields are the event's, see
`learner.state.event_types`.

A new event takes three places: its name in `learner.state.event_types.Event`, its fields as a record in `RECORDS`
there, and a rule in `learner.audit.rules` if it says anything about groups, weights, steps or processes (otherwise
`NO_RULE` there names it). `EventLog.write` refuses what is not described.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.commands import command
from learner.log import warn
from learner.state.event_record import EventError
from learner.state.event_types import Event, read_record

FIRST = "0" * 16
"""What the first line has as `previous`."""


def digest(line: bytes) -> str:
    """What the next line has as `previous`: BLAKE2b-64 (hex) of a line without its end. It detects changes by anyone
    who does not recompute it; the rules of `learner.audit` are for the rest."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()


class EventLog:
    """Appends events; every line is complete in the file before `write` returns.

    A disk that refuses does not stop training: it is said once, and the lines are kept and written, whole and in order,
    as soon as the disk takes them again. Several threads may write; after `failed` nothing follows.
    """

    def __init__(self, path: Path) -> None:
        """Goes on with an existing file; a last line that a crash cut off is ended, and stays unreadable.

        Raises:
            EventError: when the file cannot be opened, or holds a line that is not an event.
        """
        self._path = path
        self._seq, self._previous = 0, FIRST
        for line, event in _lines(path):
            self._seq, self._previous = int(event["seq"]) + 1, digest(line)
        self.begun = self._seq > 0
        """Whether the file had events already."""
        try:
            self._file = path.open("a+b", buffering=0)
            torn = self._file.seek(0, 2) > 0 and self._file.seek(-1, 2) >= 0 and self._file.read(1) != b"\n"
        except OSError as error:
            raise EventError(f"the event log {path} cannot be opened: {error.strerror}") from error
        self._unwritten = bytearray(b"\n" if torn else b"")
        self._failed = self._ended = False
        self._lock = threading.Lock()

    def write(self, event: Event, **fields: Any) -> None:
        """Appends one event; fields are JSON values.

        Raises:
            EventError: when they are not those that `learner.state.event_types` describes: a fault of the program.
        """
        try:
            read_record(event, fields)
        except EventError as error:
            raise EventError(
                f"the event {event!r} is not as learner.state.event_types describes it: {error}"
            ) from error
        with self._lock:
            if not self._ended:
                self._append(event, fields)
                self._ended = event == "failed"

    def _append(self, event: Event, fields: Mapping[str, Any]) -> None:
        values = {"seq": self._seq, "time": round(time.time(), 3), "previous": self._previous, "event": event, **fields}
        line = json.dumps(values, allow_nan=False).encode()
        self._unwritten += line + b"\n"
        self._seq, self._previous = self._seq + 1, digest(line)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unwritten:
                # A disk that fills up takes a part of a line: the rest follows later.
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:
            if not self._failed:
                warn("events_not_written", path=str(self._path), reason=error.strerror)
            self._failed = True
            return
        if self._failed:
            warn("events_written_again", path=str(self._path))
        self._failed = False

    def close(self) -> None:
        self._flush()
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a file in order (none if there is no file); lines that a crash cut off are left out.

    Raises:
        EventError: when the file cannot be read, or a line is whole and no event.
    """
    return (event for _, event in _lines(path))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines, without their ends, and what they hold."""
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                except RecursionError:
                    event = None
                if not (isinstance(event, dict) and type(event.get("seq")) is int and "event" in event):
                    raise EventError(
                        f"line {number} of the event log {path} is not an event: expected a JSON object with seq and "
                        f"event, got {line[:40]!r}; {command('learner.audit', path.parent)} names "
                        "every such line"
                    )
                yield line.removesuffix(b"\n"), event
    except OSError as error:
        raise EventError(f"the event log {path} cannot be read: {error.strerror}") from error
