"""On real Ray processes the learner, or the driver, is killed in the middle of a step; the run ends with equal bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from learner.audit import audited
from learner.errors import LearnerLost
from learner.run import run
from tests.descendants import descendants
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]

ROOT = Path(__file__).parents[2]
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
OVER = {"data": {"held_out_tasks": 1}, "report": {"gallery_tasks": 0, "gallery_groups": 0}}


def settings(editor, folder, name, mode):
    return tiny_run(editor, folder, name, {**OVER, "cluster": {"mode": mode, "rollout_workers": 1}})


def learner_process() -> psutil.Process:
    (found,) = descendants("ray::LearnerHost")
    return found


class Killer(Watcher):
    """Kills the learner once a step has its first group and the one before is trained."""

    def on_group(self, record):
        super().on_group(record)
        if len(self.groups) == 6:
            deadline = time.monotonic() + 60  # the groups are spooled by the learner, not here
            while len(list((self.folder / "spool").glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(learner_process().pid, signal.SIGKILL)

    def on_start(self, record):
        self.folder = record.folder


def check_resumed(config, inline) -> None:
    # Learners are processes of their own: the sources may have been edited between the two.
    summary = run(config, resume=True, allowed=["code"])
    one, other = (load_file(Path(c.folder) / c.name / ADAPTER) for c in (config, inline))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    result = audited(Path(config.folder) / config.name / "events.jsonl")
    assert not any(result.faults.values()), result.faults
    assert result.counts["replayed"] >= 1 and result.counts["resumes"] == 1
    assert summary["counters"]["trained"] == 8 and summary["counters"]["in_flight"] == 0


@pytest.fixture(scope="module")
def inline(tiny_kontext, tmp_path_factory):
    config = settings(tiny_kontext, tmp_path_factory.mktemp("inline"), "inline", "inline")
    run(config)
    return config


def test_a_killed_learner_loses_nothing(ray_cluster, inline, tiny_kontext, tmp_path):
    config = settings(tiny_kontext, tmp_path, "learner", "ray")
    killer = Killer()
    with pytest.raises(LearnerLost, match="The learner died"):
        run(config, observers=[killer])
    assert len(killer.groups) in (6, 5, 7)
    check_resumed(config, inline)


def test_a_killed_driver_loses_nothing(ray_cluster, inline, tiny_kontext, tmp_path):
    config = settings(tiny_kontext, tmp_path, "driver", "ray")
    file, spool = tmp_path / "asked.yaml", tmp_path / "driver" / "spool"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, "-m", "learner.main", "--config", str(file)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    # After the checkpoint of step 2, with a group of the third step on disk.
    while not list(spool.glob("000002.*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    left = descendants(of=process.pid)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    _, alive = psutil.wait_procs(left, timeout=30)
    for one in alive:  # Ray's own processes end with their driver, sooner or later
        one.kill()
    check_resumed(config, inline)
