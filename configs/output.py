"""Standard output and error that do not fail: what a command does never depends on who reads what it prints."""

from __future__ import annotations

import errno
import io
import os
import sys

import structlog

GONE = (errno.EPIPE, errno.EIO)
"""Errors of a write whose reader has ended or whose terminal is lost."""


class _Unfailing(io.FileIO):
    """Drops what nobody reads any more and, if `always`, whatever cannot be written."""

    always = False

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Returns how many bytes are dealt with, written or dropped."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
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
        always: nothing that is printed is worth an end, so that a full disk does not end the command either. Where the
            output is the result, a full disk stays an error.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        old, raw = getattr(sys, name), _Unfailing(number, "wb", closefd=False)
        raw.always = always
        setattr(sys, name, io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8" if old is None else old.encoding, errors="replace",
            line_buffering=old is None or old.line_buffering, write_through=old is not None and old.write_through))
    # structlog holds the streams of the moment at which it was imported.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stdout))
