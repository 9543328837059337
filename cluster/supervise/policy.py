"""Retry policy: what to do after an attempt has ended. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from configs import exits


@dataclass(frozen=True)
class Limits:
    """Limits of a supervisor's retries.

    Up to `failures` consecutive failures are retried, with a backoff of `first_delay` seconds that doubles each time up
    to `longest_delay`. A failure after an attempt of at least `settled` seconds counts as the first again.
    """

    failures: int = 6
    first_delay: float = 15.0
    longest_delay: float = 600.0
    settled: float = 1800.0


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    `exit_code` is the command's: None if the process, its node or its cluster was lost, below zero or above 128 if a
    signal ended it. `stopped`: the job was stopped through Ray.
    """

    exit_code: int | None
    reason: str
    stopped: bool = False


@dataclass(frozen=True)
class Again:
    """Another attempt, after `delay` seconds and the `failures`th failure in a row."""

    delay: float
    failures: int


@dataclass(frozen=True)
class Stop:
    """No further attempt: the supervisor's exit code, and the reason."""

    exit_code: int
    why: str


def decide(limits: Limits, failures: int, ended: Ended, lasted: float) -> Again | Stop:
    """The decision after an attempt that lasted `lasted` seconds, preceded by `failures` consecutive failures."""
    if ended.exit_code == exits.DONE:
        return Stop(exits.DONE, "The run is done.")
    if ended.stopped:
        return Stop(exits.FAILED, "The job was stopped through Ray. To continue, start the supervisor again.")
    if not is_retryable(ended.exit_code):
        code = exits.FAILED if ended.exit_code is None else ended.exit_code
        return Stop(
            code,
            f"The run ended with exit code {ended.exit_code}, which is not retryable: "
            "read the last lines above, fix the cause, and start the supervisor again.",
        )
    row = 1 if lasted >= limits.settled else failures + 1
    if row > limits.failures:
        return Stop(
            exits.RESUMABLE,
            f"The run failed {row} times in a row, each time within {limits.settled:g} s. Fix the cause and start "
            "the supervisor again; checkpoints are kept.",
        )
    return Again(delay(limits, row), row)


def delay(limits: Limits, failures: int) -> float:
    """The backoff in seconds after the `failures`th failure in a row, counted from 1."""
    doubled = 2.0 ** min(failures - 1, 60)  # bounded, so that the power cannot overflow
    return min(limits.longest_delay, limits.first_delay * doubled)


def is_retryable(exit_code: int | None) -> bool:
    """Whether the infrastructure failed and not the run, so that another attempt may succeed."""
    if exit_code is None or exit_code < 0:
        return True
    return exit_code in (exits.RESUMABLE, exits.TERMINATED) or (exit_code > 128 and exit_code != exits.INTERRUPTED)
