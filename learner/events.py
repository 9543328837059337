"""The run's diary: `events.jsonl`, one JSON object per line, only ever appended to.

What happened to every lease can be read from it alone. Each line has `seq` (0, 1, 2, ... over the whole life of
the run folder, resumes included), `time` (seconds since the epoch) and `event`; the other fields are the event's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from learner.saying import warn

Event = Literal[
    "started", "resumed", "leased", "generated", "scored", "spooled", "replayed", "trained", "rejected", "requeued",
    "duplicate", "task_skipped", "step_skipped", "rolled_back", "data_faults",
    "worker_started", "worker_lost", "worker_given_up", "worker_drained", "fleet_resized", "resize_refused",
    "weights_repushed", "judges_awaited", "judge_ready", "judge_trouble", "cache_trouble",
    "judge_server_started", "judge_server_lost", "alarm", "step", "published", "checkpoint", "evaluated",
    "spool_refused", "not_spooled", "not_saved", "stopping", "finished", "failed",
]


class EventLog:
    """Appends events; every line is complete in the file before `write` returns.

    A disk that refuses does not stop training: it is said once, and the lines are kept and written, whole and in order,
    as soon as the disk takes them again.
    """

    def __init__(self, path: Path) -> None:
        """Goes on with an existing file; a last line that a crash cut off is ended, and stays unreadable."""
        self._path = path
        self._seq = 1 + max((event["seq"] for event in read_events(path)), default=-1)
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self.begun = self._seq > 0
        """Whether the file had events already."""
        self._file = path.open("ab", buffering=0)
        self._unwritten = bytearray(b"\n" if torn else b"")
        self._failed = False

    def write(self, event: Event, **fields: Any) -> None:
        """Appends one event; fields are JSON values."""
        line = {"seq": self._seq, "time": round(time.time(), 3), "event": event, **fields}
        self._unwritten += json.dumps(line, allow_nan=False).encode() + b"\n"
        self._seq += 1
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
    """The events of a file in order (none if there is no file); lines that a crash cut off are left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
