"""What Ray raises, as sentences: Ray wraps a process's own error in frames and class names of its own."""

from __future__ import annotations

from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

GONE = (
    RayActorError,
    OutOfMemoryError,
    NodeDiedError,
    WorkerCrashedError,
    RuntimeEnvSetupError,
    ActorUnschedulableError,
)
"""What Ray raises for a process that has ended or never started; only some of these are a RayActorError."""


def cause_of(error: BaseException) -> BaseException:
    """What the process itself raised; the error itself where Ray raised it."""
    return getattr(error, "cause", None) or error


def sentence_of(error: BaseException) -> str:
    """The first line of the error's own text, or the name of its class where there is none."""
    lines = _lines(error)
    return lines[-1 if _could_not_start(error, lines) else 0] if lines else type(cause_of(error)).__name__


def reason_of(error: BaseException) -> str:
    """One line: `sentence_of` after the name of the error's class."""
    lines = _lines(error)
    if not lines:
        return sentence_of(error)
    if _could_not_start(error, lines):
        return f"it could not start: {sentence_of(error)}"
    return f"{type(cause_of(error)).__name__}: {sentence_of(error)}"


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(cause_of(error)).splitlines() if line.strip()]


def _could_not_start(error: BaseException, lines: list[str]) -> bool:
    """Whether an actor could not be made: then the last line of the traceback is the error itself."""
    return isinstance(error, RayActorError) and "creation task" in lines[0]
