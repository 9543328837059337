"""Runs whose learner is two processes on Ray: as one that learns alone but for rounding, and whole after one dies."""

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from learner.audit import audited
from learner.errors import LearnerLost
from learner.retryable import is_retryable
from learner.run import run
from learner.state.event_log import read_events
from tests.descendants import descendants
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]

TWO = {
    "cluster": {"mode": "ray", "rollout_workers": 1},
    "learner": {"num_workers": 2, "groups_per_step": 3, "steps": 3},
    "data": {"held_out_tasks": 1},
    "checkpoint": {"every": 1},
}


class Look(Watcher):
    """Notes which processes learn after the first step, and kills the second one if asked to."""

    def __init__(self, kill=False):
        super().__init__()
        self.kill, self.seen = kill, []

    def on_step(self, record):
        super().on_step(record)
        if record.step == 1:
            self.seen = descendants("ray::LearnerHost")
            if self.kill:
                self.seen[-1].kill()


def test_two_learner_processes_train_as_one_and_the_death_of_one_loses_nothing(ray_cluster, tiny_kontext, tmp_path):
    alone = run(
        tiny_run(
            tiny_kontext,
            tmp_path,
            "alone",
            {**TWO, "cluster": {"mode": "inline"}, "learner": {**TWO["learner"], "num_workers": 1}},
        )
    )
    look = Look()
    both = run(tiny_run(tiny_kontext, tmp_path, "both", TWO), observers=[look])
    assert len(look.seen) == 2
    one, two = load_file(alone["adapter"]), load_file(both["adapter"])
    assert max(np.abs(one[name]).max() for name in one if ".lora_B." in name) > 1e-3  # they moved
    # Adam blows the rounding of a gradient up where it is next to nothing: in few elements, and there by little.
    before, after = (np.concatenate([arrays[name].ravel() for name in one]) for arrays in (one, two))
    off = np.abs(after - before) > 2e-5 + 1e-3 * np.abs(before)
    assert off.mean() < 0.02 and np.linalg.norm(after - before) < 2e-3 * np.linalg.norm(before)
    # Every step's report is that of all groups, and each was on disk before it was used.
    events = list(read_events(tmp_path / "both" / "events.jsonl"))
    assert [step.learner["groups"] for step in look.steps] == [3, 3, 3]
    assert len({e["group"] for e in events if e["event"] == "spooled"}) == 9
    assert not any(audited(tmp_path / "both" / "events.jsonl").faults.values())

    killer = Look(kill=True)
    broken = tiny_run(tiny_kontext, tmp_path, "broken", TWO)
    with pytest.raises(LearnerLost) as lost:
        run(broken, observers=[killer])
    assert psutil.wait_procs(killer.seen[-1:], timeout=30)[1] == []
    assert is_retryable(lost.value)
    assert run(broken, resume=True)["counters"]["trained"] == 9
    again = load_file(tmp_path / "broken" / "adapter" / "pytorch_lora_weights.safetensors")
    assert all(np.array_equal(again[name], two[name]) for name in two)  # to the bit, with as many processes
    assert not any(audited(tmp_path / "broken" / "events.jsonl").faults.values())
