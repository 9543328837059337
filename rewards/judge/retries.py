"""Classification of failed attempts, and Retry-After. No I/O.

Locus retries in a few lines of its own (`pool.py`). A retry library repeats one call at one place; here the next
attempt goes to another server, waits in the pool's own queue rather than for a fixed time, shares one clock with
the attempts before it, and a Retry-After holds the server rather than the request.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Fate = Literal["busy", "failed", "wrong", "refused"]
"""busy: the server works, ask another one or later. failed: it does not work; until it does, it is asked nothing.
wrong: the same, but it is not the server that the configuration means (no key, no model, no such address).
refused: the request itself."""


class ServerFault(Exception):
    """An attempt failed at one server; another attempt may succeed.

    Attributes:
        fate: what it says of the server.
        retry_after: seconds that the server asked for, if it did.
    """

    def __init__(self, why: str, fate: Fate, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.fate, self.retry_after = fate, retry_after


def fate(status: int) -> Fate:
    """What an HTTP status other than 2xx says: 408, 409, 425, 429 busy; 5xx failed; 1xx, 3xx, 401, 403, 404 and 405
    wrong; the other 4xx refused."""
    if status in (408, 409, 425, 429):
        return "busy"
    if status >= 500:
        return "failed"
    if 400 <= status < 500 and status not in (401, 403, 404, 405):
        return "refused"
    return "wrong"


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); None where there is none to read.

    `now` has a time zone.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
