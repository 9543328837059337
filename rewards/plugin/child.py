"""The process of a user's scorer: loads the function, and scores the groups that come, one after the other.

Whatever the user's code raises becomes an error of its candidates. The process ends when its pool does: a thread reads
what comes, so that this is noticed even while the function computes.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import inspect
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from configs.exits import STOP_SIGNALS
from configs.output import protect_output
from configs.text import told
from rewards.plugin import wire
from rewards.plugin.values import checked, typed
from rewards.result import Score
from rewards.scorer_api import ScoreInput

GRACE_SECONDS = 5.0
"""Within which the user's code must have returned once the pool is gone."""


def main(descriptor: int) -> None:
    """Serves the pool at the other end of the socket until that is closed."""
    protect_output(always=True)  # what the user's code prints costs no score
    served = Event()
    atexit.register(_end_all, served)  # before the user's code registers anything, and so after all of that
    for stop in STOP_SIGNALS:
        # Machines send them to every process of a run; the driver decides. Not SIG_IGN: what the user's code starts
        # would inherit that.
        signal.signal(stop, lambda *_: None)
    connection = socket.socket(fileno=descriptor)
    inbox: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    with suppress(OSError):  # the pool went while it was answered; the user's own errors end in `scored`
        if not _serve(connection, inbox):
            return
    served.set()


def _serve(connection: socket.socket, inbox: SimpleQueue[Any]) -> bool:
    """Answers until the pool is gone; False where the function cannot be loaded, which is told to the pool.

    Raises:
        OSError: when the pool is gone before it has its response.
    """
    opened = inbox.get()
    if opened is None:
        return True
    opening, _ = opened
    try:
        function = found(opening["name"], opening["dotted"])
    except LoadError as error:
        wire.send(connection, {"error": str(error)}, {})
        return False
    wire.send(connection, {"error": None}, {})
    who = f"{opening['name']} ({opening['dotted']})"
    with asyncio.Runner() as runner:
        while (received := inbox.get()) is not None:
            wire.send(connection, wire.of_scores(scored(function, wire.to_input(*received), who, runner)), {})
    return True


class LoadError(Exception):
    """The function cannot be loaded; the sentence names its key and says why."""


def found(name: str, dotted: str) -> Callable[[ScoreInput], Any]:
    """The function at `package.module:function`.

    Raises:
        LoadError: when there is none, whatever its module does while it is imported.
    """
    key = f"rewards.scorers.{name}"
    module_name, _, attribute = dotted.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise LoadError(
            f"{key}: {module_name} cannot be imported ({told(error)}); is it installed, or on PYTHONPATH?"
        ) from error
    except BaseException as error:  # the user's code may raise anything, SystemExit too
        raise LoadError(f"{key}: {module_name} failed while it was imported with {told(error)}") from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise LoadError(f"{key}: {module_name} has no {attribute!r}") from error
    if not callable(found) or inspect.isclass(found):
        raise LoadError(f"{key}: expected {dotted} to be a function of one ScoreInput, got {typed(found)}")
    function: Callable[[ScoreInput], Any] = found
    return function


def scored(
    function: Callable[[ScoreInput], Any], given: ScoreInput, who: str, runner: asyncio.Runner
) -> tuple[Score, ...]:
    """One score per candidate, whatever the function returns or raises."""
    size = len(given.images)
    try:
        returned = function(given)
        if inspect.isawaitable(returned):
            returned = runner.run(_awaited(returned))
        return checked(returned, size, who)
    except BaseException as error:  # the user's code may raise anything, SystemExit and KeyboardInterrupt too
        return (Score(error=f"{who}: the scorer failed with {told(error)}"),) * size


async def _awaited(returned: Any) -> Any:
    return await returned


def _receive(connection: socket.socket, inbox: SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(wire.receive(connection))
    except (EOFError, OSError):  # the pool is closed, or its process is gone
        inbox.put(None)
        time.sleep(GRACE_SECONDS)
        _end_session()


def _end_all(served: Event) -> None:
    """Where the pool is gone, ends what the user's code has started; other ends keep their exit code."""
    if served.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        _end_session()


def _end_session() -> None:
    """Ends this process, with all that the user's code has started."""
    os.killpg(0, signal.SIGKILL)
