"""Retry policy: what to do after an attempt has ended. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from configs import exits
from locus.common.restarts import RestartPolicy

POLICY = RestartPolicy(restarts=6, first_delay=15.0, longest_delay=600.0, settled=1800.0)
"""How patient a supervisor is with attempts that fail."""


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


def decide(policy: RestartPolicy, failures: int, ended: Ended, lasted: float) -> Again | Stop:
    """The decision after an attempt that lasted `lasted` seconds, preceded by `failures` consecutive failures."""
    if ended.exit_code == exits.DONE:
        return Stop(exits.DONE, "The run is done.")
    if ended.stopped:
        return Stop(exits.FAILED, "The job was stopped through Ray. To continue, start the supervisor again.")
    if not is_retryable_exit(ended.exit_code):
        code = exits.FAILED if ended.exit_code is None else ended.exit_code
        return Stop(
            code,
            f"The run ended with exit code {ended.exit_code}, which is not retryable: "
            "read the last lines above, fix the cause, and start the supervisor again.",
        )
    row = policy.row(failures, lasted)
    if policy.gives_up(row):
        return Stop(
            exits.RESUMABLE,
            f"The run failed {row} times in a row, each time within {policy.settled:g} s. Fix the cause and start "
            "the supervisor again; checkpoints are kept.",
        )
    return Again(policy.delay(row), row)


def is_retryable_exit(exit_code: int | None) -> bool:
    """Whether the infrastructure failed and not the run, so that another attempt may succeed."""
    if exit_code is None or exit_code < 0:
        return True
    return exit_code in (exits.RESUMABLE, exits.TERMINATED) or (exit_code > 128 and exit_code != exits.INTERRUPTED)
