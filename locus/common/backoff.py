"""How long to wait before the next attempt: doubled with every failure in a row, up to a cap. Pure.

Waiting, counting and giving up are the caller's: no two users of this wait in the same way (a sleep, a time from which
something is due, a probe of its own), which is why it is a number and not a retry loop.
"""

from __future__ import annotations

import random


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures (1 or more) in a row.

    backoff(n, 1.0, 5.0) = 1, 2, 4, 5, 5 for n = 1, 2, 3, 4, 5.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 64))  # far beyond, a float would overflow


def jittered_backoff(failures: int, first: float, longest: float) -> float:
    """Between half and all of `backoff`, drawn anew each time: requests that failed together do not return together."""
    return backoff(failures, first, longest) * random.uniform(0.5, 1.0)
