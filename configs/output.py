"""Standard output and error that never fail: a command does not depend on whoever reads its output."""

from __future__ import annotations

import errno
import io
import os
import select
import sys

import structlog

PATIENCE_SECONDS = 1.0
"""How long to wait for a stalled reader (a pager, a paused terminal) before dropping lines."""
GONE = (errno.EPIPE, errno.EIO)
"""Write errors of a stream whose reader exited or whose terminal is gone."""


def takes_more(number: int, seconds: float = 0.0) -> bool:
    """Whether a few bytes can be written to a file descriptor within `seconds` without blocking on its reader."""
    waiting = select.poll()
    waiting.register(number, select.POLLOUT)
    return bool(waiting.poll(1000 * seconds))


class _Unfailing(io.FileIO):
    """A raw stream that drops output without a reader and, if `always`, any output that fails or would block."""

    always = False
    _stuck = False

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """The number of bytes handled, written or dropped."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            if self.always:
                self._stuck = not takes_more(self.fileno(), 0.0 if self._stuck else PATIENCE_SECONDS)
                if self._stuck:
                    return size
                data = memoryview(data)[: select.PIPE_BUF]  # type: ignore[arg-type]
            # None: a non-blocking stream that accepts nothing at the moment.
            written: int | None = super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if not (self.always or error.errno in GONE):
                raise
            return size
        return size if written is None and self.always else written


def protect_output(always: bool = False) -> None:
    """Replace this process's standard streams and route log lines to them, before a command starts.

    Afterwards a print does not raise if the reader exited or the terminal is gone, and characters that the encoding
    lacks are replaced. A closed stream becomes the null device, so that no file opened later takes its descriptor.

    Args:
        always: printing must neither fail nor block: a full disk does not end the command, and a stalled reader misses
            lines. Leave it off where the output is the result, so that a full disk stays an error.
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
    # structlog keeps the streams that it saw at import.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stdout))
