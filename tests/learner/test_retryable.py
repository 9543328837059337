"""Which ends of a run another attempt may not meet again: what was lost, and not what code raised by itself."""

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, NodeDiedError, ObjectLostError, RayTaskError

from actors.fleet import FleetError
from cluster.runtime import ClusterError
from configs.schema import RunConfig
from learner.backends.base import overdue
from learner.backends.ray_results import result_of
from learner.errors import LearnerLost, RunFailed, RunInterrupted
from learner.retryable import is_retryable
from learner.update.data_parallel import PeersLost
from rewards.judge.messages import BadResponse, JudgesDown
from rewards.vllm.replicas import ServersFailed


def task_error(cause: Exception) -> RayTaskError:
    """As Ray raises it: of both types."""
    return RayTaskError("update", "Traceback", cause).as_instanceof_cause()


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answered(who: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """What the run raises when a process raises an error, saved and reported like every end."""

    def get(ref: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(RunFailed) as caught:
        result_of(who, None, 1.0)
    return caused(RunFailed(f"{caught.value} The run is saved."), caught.value)


@pytest.mark.parametrize("who", ["learner", "reward pool"])
@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        NodeDiedError("gone"),
        GetTimeoutError(),
        ObjectLostError("00", None, ""),
        task_error(PeersLost("process 1 lost the others")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_process_or_group_that_is_gone_may_be_found_again(who, error, monkeypatch):
    assert is_retryable(answered(who, error, monkeypatch))


@pytest.mark.parametrize("who", ["learner", "reward pool"])
@pytest.mark.parametrize(
    "error",
    [
        task_error(ValueError("ratio gate")),
        task_error(BadResponse("11/10")),
        ActorDiedError(RayTaskError("__init__", "Traceback", FileNotFoundError("editor.path"))),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_process_raised_by_itself_it_would_raise_again(who, error, monkeypatch):
    assert not is_retryable(answered(who, error, monkeypatch))


def test_judges_that_are_down_may_be_up_again_wherever_they_were_asked(monkeypatch):
    down = JudgesDown("30 requests in a row got no response")
    assert is_retryable(answered("reward pool", task_error(down), monkeypatch))
    assert is_retryable(caused(RunFailed("in this process"), down))


@pytest.mark.parametrize(
    "error",
    [
        overdue(RunConfig(), 3),
        RunInterrupted("not ready in time"),
        LearnerLost("hangs"),
        FleetError("no worker"),
        ClusterError("no Ray there"),
        ServersFailed("killed by signal 9"),
        PeersLost("did not meet"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_machinery_pass_also_as_causes(error):
    assert is_retryable(error) and is_retryable(caused(RunFailed("and saved"), error))


@pytest.mark.parametrize(
    "error",
    [
        RunFailed("the disk is full"),
        ValueError("a wrong mask"),
        caused(FleetError("A rollout worker failed"), task_error(KeyError("a fault of ours"))),
        caused(LearnerLost("failed"), task_error(RuntimeError("out of memory"))),
    ],
)
def test_other_errors_need_a_person(error):
    assert not is_retryable(error)
