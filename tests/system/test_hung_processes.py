"""Whole runs whose pool or learner hangs or is killed: the run stops, with its state saved."""

import asyncio
import os
import signal

import psutil
import pytest

import learner.backends.base
import learner.backends.inline
import learner.backends.ray
from learner.backends.learner_group import LearnerGroup
from learner.errors import LearnerLost, RunFailed
from learner.run import run
from tests.descendants import descendants
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run
from tests.system.test_judges import MODES


def process(name: str) -> psutil.Process:
    """The Ray actor of that class."""
    (found,) = descendants(f"ray::{name}")
    return found


async def stuck(given) -> list[float]:
    """A scorer that says nothing of the second step's groups."""
    global asked
    asked += 1
    if asked > 2:
        await asyncio.sleep(3600)
    return [float(i) for i in range(len(given.images))]


asked = 0


@pytest.mark.parametrize("mode", MODES)
def test_a_pool_that_hangs_does_not_hang_the_run(mode, request, tiny_kontext, tmp_path, monkeypatch):
    if mode == "ray":
        request.getfixturevalue("ray_cluster")
    global asked
    asked = 0
    for backend in (learner.backends.inline, learner.backends.ray, learner.backends.base):
        monkeypatch.setattr(backend, "scoring_limit", lambda config: 5.0)
    config = tiny_run(
        tiny_kontext,
        tmp_path,
        "stuck",
        {
            "rewards": {"weights": {"stuck": 1.0}, "scorers": {"stuck": "tests.system.test_hung_processes:stuck"}},
            "data": {"held_out_tasks": 0},
            "cluster": {"mode": mode},
        },
    )
    limit = r"for 5 s \(cluster\.group_timeout \+ rewards\.scorer_deadline\)"
    with pytest.raises(RunFailed, match=f"has scored none of 2 groups {limit}") as stopped:
        run(config)
    assert "saved up to step 1" in str(stopped.value)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_pool_stops_the_run_with_its_state_saved(ray_cluster, tiny_kontext, tmp_path):
    class KillerOfThePool(Watcher):
        def on_step(self, record):
            super().on_step(record)
            if record.step == 2:
                process("PoolActor").kill()

    config = tiny_run(tiny_kontext, tmp_path, "pool", {"cluster": {"mode": "ray"}, "checkpoint": {"every": 100}})
    with pytest.raises(RunFailed, match=r"The reward pool died: .*saved up to step 2 in .*continue it with --resume"):
        run(config, observers=[KillerOfThePool()])
    assert run(config, resume=True)["first_step"] == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("method", "limit", "sentence"),
    [
        ("consume", "taking_limit", r"The learner has taken none of \d groups for 5 s"),
        ("update", "step_limit", r"The learner did not finish its step within 5 s"),
    ],
)
def test_a_learner_that_hangs_does_not_hang_the_run(
    method, limit, sentence, ray_cluster, tiny_kontext, tmp_path, monkeypatch
):
    whole, frozen = getattr(LearnerGroup, method), []

    def freeze(group, *arguments):
        frozen.append(process("LearnerHost").pid)
        os.kill(frozen[-1], signal.SIGSTOP)
        return whole(group, *arguments)

    monkeypatch.setattr(learner.backends.ray, limit, lambda config: 5.0)
    monkeypatch.setattr(LearnerGroup, method, freeze)
    config = tiny_run(tiny_kontext, tmp_path, "frozen", {"data": {"held_out_tasks": 0}, "cluster": {"mode": "ray"}})
    with pytest.raises(LearnerLost, match=sentence):
        run(config)
    assert frozen
