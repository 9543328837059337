"""Log messages for the operator that the run can do without."""

from __future__ import annotations

from contextlib import suppress

import structlog

logger = structlog.get_logger(__name__)


def warn(event: str, **fields: object) -> None:
    """One line on the terminal, or in the file that stands for it; where that takes no line, nothing happens: its disk
    is full (OSError), it is closed, or its encoding lacks a letter (ValueError)."""
    with suppress(OSError, ValueError):
        logger.warning(event, **fields)
