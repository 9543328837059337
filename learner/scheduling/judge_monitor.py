"""Monitor of the judges' statistics during a run: notifies when a judge degrades or recovers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from learner.backends.base import Backend
from learner.reporting.notifications import JUDGE_FAILURES
from learner.reporting.records import Notify

LOOK_SECONDS = 5.0  # while nothing arrives
_IN_ROTATION = "_in_rotation"


class JudgeMonitor:
    """Polls the pool's statistics; notifies `judge_trouble` where they changed, and `cache_trouble` when the cache
    begins to fail, at the start included, and (with `faults` 0) when it responds again."""

    def __init__(self, backend: Backend, notify: Notify) -> None:
        self._backend, self._notify = backend, notify
        self._before: Mapping[str, float] = backend.pool_statistics()
        self._looked = time.monotonic()
        self._cache_fails = False
        self._look_at_cache(0, self._before)

    def look(self) -> Mapping[str, float]:
        """The statistics now; empty without judges."""
        self._looked = time.monotonic()
        before, self._before = self._before, self._backend.pool_statistics()
        for fields in changes(before, self._before):
            self._notify("judge_trouble", **fields)
        self._look_at_cache(before.get("cache_faults", 0), self._before)
        return self._before

    def _look_at_cache(self, before: float, now: Mapping[str, float]) -> None:
        faults = int(now.get("cache_faults", 0) - before)
        if faults and not self._cache_fails:
            self._notify("cache_trouble", faults=faults)
            self._cache_fails = True
        if self._cache_fails and not now["cache_away"]:
            self._notify("cache_trouble", faults=0)
            self._cache_fails = False

    def glance(self) -> None:
        """Looks, at most every `LOOK_SECONDS`."""
        if self._before and time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()


def changes(before: Mapping[str, float], now: Mapping[str, float]) -> list[dict[str, Any]]:
    """Per judge with a change: the number of `servers` in rotation, and of requests given up or refused and
    responses without a score since before."""
    found = []
    for judge in (name.removesuffix(_IN_ROTATION) for name in now if name.endswith(_IN_ROTATION)):
        new = {failure: int(now[f"{judge}_{failure}"] - before[f"{judge}_{failure}"]) for failure in JUDGE_FAILURES}
        servers = int(now[f"{judge}{_IN_ROTATION}"])
        if any(new.values()) or servers != before[f"{judge}{_IN_ROTATION}"]:
            found.append({"judge": judge, "servers": servers, **new})
    return found
