"""Standard output and error that do not fail: what a command does never depends on who reads what it prints."""

from __future__ import annotations

import errno
import io
import os
import select
import sys

import structlog

PATIENCE_SECONDS = 1.0
"""How long a reader that has stopped to read (a pager, a terminal on hold) is waited for before lines are dropped."""
GONE = (errno.EPIPE, errno.EIO)
"""Errors of a write whose reader has ended or whose terminal is lost."""


def takes_more(number: int, seconds: float = 0.0) -> bool:
    """Whether a few bytes can be written to a stream now, or within so many seconds, without waiting for its reader."""
    waiting = select.poll()
    waiting.register(number, select.POLLOUT)
    return bool(waiting.poll(1000 * seconds))


class _Unfailing(io.FileIO):
    """Drops what nobody reads any more and, if `always`, whatever cannot be written, or not without waiting."""

    always = False
    _stuck = False

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Returns how many bytes are dealt with, written or dropped."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            if self.always:
                self._stuck = not takes_more(self.fileno(), 0.0 if self._stuck else PATIENCE_SECONDS)
                if self._stuck:
                    return size
                data = memoryview(data)[: select.PIPE_BUF]  # type: ignore[arg-type]
            # None where the stream does not block and takes nothing at the moment.
            written: int | None = super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if not (self.always or error.errno in GONE):
                raise
            return size
        return size if written is None and self.always else written


def protect_output(always: bool = False) -> None:
    """Replaces this process's standard streams and sends log lines there, before a command starts.

    Afterwards a print raises nothing where the reader has ended or the terminal is lost, and letters that the encoding
    lacks are replaced. A stream that was closed becomes a null device, so that no file that is opened later takes its
    number.

    Args:
        always: nothing that is printed is worth an end or a wait, so that a full disk does not end the command either,
            and a reader that has stopped to read misses lines. Where the output is the result, a full disk stays an
            error.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        old, raw = getattr(sys, name), _Unfailing(number, "wb", closefd=False)
        raw.always = always
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding="utf-8" if old is None else old.encoding,
                errors="replace",
                line_buffering=old is None or old.line_buffering,
                write_through=old is not None and old.write_through,
            ),
        )
    # structlog holds the streams of the moment at which it was imported.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stdout))
