"""What to do when an attempt has ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from common.restarts import RestartPolicy
from configs import exits

POLICY = RestartPolicy(restarts=6, first_delay=15.0, longest_delay=600.0, settled=1800.0)
"""How patient a supervisor is with attempts that fail."""


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    `exit_code` is the command's own: None when it has none because the process, its node or its cluster was lost,
    below zero or above 128 when a signal ended it. `stopped`: somebody asked Ray to stop the job.
    """

    exit_code: int | None
    reason: str
    stopped: bool = False


@dataclass(frozen=True)
class Again:
    """Another attempt, after `delay` seconds; it follows on the `failures`th failure in a row."""

    delay: float
    failures: int


@dataclass(frozen=True)
class Stop:
    """No further attempt: the supervisor's own exit code, and why."""

    exit_code: int
    why: str


def decide(policy: RestartPolicy, failures: int, ended: Ended, lasted: float) -> Again | Stop:
    """What follows on an attempt that lasted so many seconds, with `failures` failures in a row before it."""
    if ended.exit_code == exits.DONE:
        return Stop(exits.DONE, "The run is done.")
    if ended.stopped:
        return Stop(exits.FAILED, "Somebody stopped the job. To go on, start the supervisor again.")
    if not is_passing(ended.exit_code):
        code = exits.FAILED if ended.exit_code is None else ended.exit_code
        return Stop(
            code,
            f"The run ended with exit code {ended.exit_code}, which another attempt would meet again: "
            "read the last lines above, change what they say, and start the supervisor again.",
        )
    row = policy.row(failures, lasted)
    if policy.gives_up(row):
        return Stop(
            exits.RESUMABLE,
            f"The run failed {row} times in a row without lasting {policy.settled:g} s. Start "
            "the supervisor again when the cause is gone; checkpoints are kept.",
        )
    return Again(policy.delay(row), row)


def is_passing(exit_code: int | None) -> bool:
    """Whether this end is one of the machinery's, so that another attempt may succeed."""
    if exit_code is None or exit_code < 0:
        return True
    return exit_code in (exits.RESUMABLE, exits.TERMINATED) or (exit_code > 128 and exit_code != exits.INTERRUPTED)
