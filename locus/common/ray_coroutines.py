"""Coroutines that wait for Ray's objects, run in the thread of whoever resumes them.

They are no tasks of an event loop, where `await ref` would do, for three reasons. That fetches the object itself into
this process, by a thread of Ray's and for as long as it takes; here only its being ready is awaited. A loop learns of
an object some turns after Ray has it, and would take what has ended for overdue; here whatever is ready goes on before
anybody looks at a deadline. And a task keeps what it raises until somebody asks; here it is raised at once, in the
caller's loop.
"""

from __future__ import annotations

import time
import types
from collections.abc import Coroutine, Generator
from typing import Any

import ray

PAUSE_SECONDS = 0.1


@types.coroutine
def ready(ref: ray.ObjectRef) -> Generator[ray.ObjectRef, None, None]:
    """Wait until the object is there or has failed, or until somebody wakes the coroutine; nothing is fetched."""
    yield ref


class Coroutines:
    """Coroutines that have begun and wait. What one raises is raised by the `start` or `resume` that ran it.

    They await `ready(ref)` and nothing else, and no two of them the same object.
    """

    def __init__(self) -> None:
        self._waiting: dict[ray.ObjectRef, Coroutine[ray.ObjectRef, None, Any]] = {}
        self._next: dict[ray.ObjectRef, None] = {}  # in this order

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine up to the first object that it waits for."""
        self._run(coroutine)

    def wake(self, *refs: ray.ObjectRef) -> None:
        """Let those that wait for these objects go on at the next `resume`, before others and in this order, whether or
        not the objects ever come. One that is running takes its turn by waiting for its object again."""
        self._next = dict.fromkeys((*refs, *self._next))

    def resume(self) -> bool:
        """Run all that can go on, those whose object is ready in the order in which they began to wait; whether there
        were any."""
        waiting = list(self._waiting)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        self._next.update(dict.fromkeys(ready))
        resumed = False
        while self._next:
            ref = next(iter(self._next))
            del self._next[ref]
            coroutine = self._waiting.pop(ref, None)
            if coroutine is not None:
                resumed = True
                self._run(coroutine)
        return resumed

    def wait(self, timeout: float) -> None:
        """Return when one can go on, or after `timeout` seconds; after a moment when none waits for anything."""
        if self._next:
            return
        if self._waiting:
            ray.wait(list(self._waiting), num_returns=1, timeout=timeout, fetch_local=False)
        else:
            time.sleep(min(timeout, PAUSE_SECONDS))

    def _run(self, coroutine: Coroutine[ray.ObjectRef, None, Any]) -> None:
        try:
            ref = coroutine.send(None)
        except StopIteration:
            return
        self._waiting[ref] = coroutine
