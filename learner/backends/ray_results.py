"""Responses of Ray processes: a value, or a sentence that says why there is none."""

from __future__ import annotations

from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from editing.task import TaskError
from learner.errors import LearnerLost, RunFailed, RunInterrupted
from locus.common.ray_errors import GONE, cause_of, reason_of
from rewards.judge.messages import JudgeError

Who = Literal["learner", "reward pool"]


class GroupLost(RunInterrupted):
    """A group is gone, with the node that held it. Before it is trained on it can be made again."""

    spoiled = False


class Spoiled(RunFailed):
    """A task went bad: its files are gone or have changed. Another one can take its place."""

    spoiled = True


def result_of(who: Who, ref: ray.ObjectRef, limit: float) -> Any:
    """The response of the learner or the reward pool within `limit` seconds.

    Raises:
        RunInterrupted: when it is dead or hangs (LearnerLost for the learner); GroupLost when what it was to work on is
            gone.
        RunFailed: when it failed (LearnerLost for the learner), or a judge's failure limit is reached; Spoiled when its
            task went bad.
    """
    lost, failed = (LearnerLost, LearnerLost) if who == "learner" else (RunInterrupted, RunFailed)
    try:
        return ray.get(ref, timeout=limit)
    except GetTimeoutError as error:
        raise lost(f"The {who} did not respond within {limit:g} s.") from error
    except ObjectLostError as error:
        raise GroupLost(f"A group was lost before the {who} had it: {reason_of(error)}") from error
    except GONE as error:
        again = " Continue from the last checkpoint with --resume." if who == "learner" else ""
        raise lost(f"The {who} died: {reason_of(error)}.{again}") from error
    except TaskError as error:  # Ray raises what the process raised
        raise Spoiled(str(cause_of(error))) from error
    except JudgeError as error:
        raise failed(str(cause_of(error))) from error
    except RayTaskError as error:
        raise failed(f"The {who} failed: {reason_of(error)}") from error
