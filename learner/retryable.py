"""Whether a failed run is retryable: exit code 75 rather than 1.

Of the errors that led to the end, one must report something lost, and none of a fault in the run's own code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from learner.errors import RunInterrupted
from learner.update.data_parallel import PeersLost
from rewards.judge.messages import JudgesDown, JudgeUnavailable
from rewards.vllm.replicas import ServersFailed

LOST = (RunInterrupted, PeersLost, JudgesDown, JudgeUnavailable, ServersFailed)
"""Errors of lost processes, nodes or servers. Besides these, most of what Ray itself raises (`_lost_on_ray`).
A list and no common base: the packages that these come from do not know each other."""


def is_retryable(error: BaseException) -> bool:
    """Whether an error is a fault of processes, nodes or servers, which another attempt may not meet again.

    What a process of the run raised by itself is not: it would raise it again, unless it lost others.
    """
    chain = list(causes(error))
    return any(isinstance(one, LOST) or _lost_on_ray(one) for one in chain) and not any(map(_own_fault, chain))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and one after the other what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _lost_on_ray(error: BaseException) -> bool:
    if "ray" not in sys.modules:  # then none of these can have come up, and a machine may lack it
        return False
    from ray.exceptions import RayError, RayTaskError

    from actors.fleet import FleetError
    from cluster.runtime import ClusterError

    return isinstance(error, FleetError | ClusterError) or (
        isinstance(error, RayError) and not isinstance(error, RayTaskError)
    )


def _own_fault(error: BaseException) -> bool:
    """Whether a process of the run raised this, in one of its methods or where it was made."""
    if "ray" not in sys.modules:
        return False
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError):  # also an instance of what was raised there
        return not isinstance(error, LOST)
    return isinstance(error, RayActorError) and error.actor_init_failed
