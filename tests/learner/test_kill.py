"""kill -9 anywhere, --resume, and the final adapter has the same bytes as that of the unbroken run."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig
from learner.audit import audited
from learner.audit.report import main as audit
from learner.state.checkpoint import load_step
from learner.state.event_log import read_events
from tests.learner.nursery import Nursery, Point
from tests.learner.tiny_run import tiny_run

pytestmark = pytest.mark.fault

ADAPTER = "run/adapter/pytorch_lora_weights.safetensors"
RENAME = "pathlib:Path.rename"
WRITE = "learner.state.checkpoint:_write"
EVENT = "learner.state.event_log:EventLog.write"

# Of a run of four steps of two groups that is saved before the first, after the second and after the last.
POINTS = {
    "while it starts": (Point("learner.run:evaluate"), 0),
    "the first checkpoint": (Point(WRITE, text="MANIFEST"), 0),
    "before the first rollout": (Point("actors.worker:RolloutWorker.roll_out"), 0),
    "after a rollout": (Point("actors.worker:RolloutWorker.roll_out", 6, after=True), 1),
    "after scoring": (Point("rewards.pool:RewardPool.score", 3, after=True), 2),
    "before a group is spooled": (Point("learner.state.spool:Spool.write", 6), 1),
    "a file of the spool that is not renamed": (Point(RENAME, 6, text=".partial"), 1),
    "a file of the spool that was just renamed": (Point(RENAME, 6, after=True, text=".partial"), 2),
    "before a gradient": (Point("learner.update.learner:Learner._accumulate", 3), 3),
    "after a gradient": (Point("learner.update.learner:Learner._accumulate", 8, after=True), 4),
    "before the optimizer": (Point("learner.update.learner:Learner._apply", 2), 4),
    "after the optimizer": (Point("torch.optim:AdamW.step", 4, after=True), 4),
    "after an update": (Point("learner.update.learner:Learner.update", 1, after=True), 2),
    "before a publication": (Point("learner.update.learner:Learner.publish", 3), 4),
    "before a checkpoint": (Point("learner.update.learner:Learner.save", 2), 4),
    # The third: the manifest of the first checkpoint names the file too.
    "a checkpoint's file": (Point(WRITE, 3, text="optimizer.safetensors"), 4),
    "a checkpoint without its manifest": (Point(WRITE, 2, text="MANIFEST"), 4),
    "a checkpoint that is not renamed": (Point(WRITE, 2, after=True, text="MANIFEST"), 4),
    "a checkpoint that was just renamed": (Point(RENAME, 2, after=True, text="tmp.step_"), 0),
    "before old checkpoints go": (Point("learner.state.checkpoint:_prune", 3), 0),
    "while old checkpoints go": (Point("shutil:rmtree", 1, text="removed"), 0),
    "before the spool drops a group": (Point("learner.state.spool:Spool.drop", 3), 0),
    "while the spool drops a group": (Point("pathlib:Path.unlink", 1, after=True, text="spool/"), 0),
    # The third that names "trained" is that of the step with its counters.
    "before a line of the event log": (Point(EVENT, 3, text="trained"), 2),
    "after a line of the event log": (Point(EVENT, 3, after=True, text="spooled"), 4),
    "half a line of the event log": (Point("learner.state.event_log:EventLog._flush", 21), None),
    "after the lease counters of a step": (Point("learner.scheduling.collector:Collector.settle", 3, after=True), 2),
    "before the export": (Point("editing.editors.adapter_file:export_adapter"), 0),
    "before the summary": (Point("learner.run:write_whole"), 0),
}
EVERY_TIME = (
    "a file of the spool that is not renamed",
    "after the optimizer",
    "a checkpoint without its manifest",
    "while the spool drops a group",
    "half a line of the event log",
)
"""Points that are tried with every `make test-faults`; `pytest tests/learner/sweep.py` tries all."""
HALF_A_LINE = """
import learner.state.event_log
def flush(log):
    log._file.write(log._unwritten[: len(log._unwritten) // 2] if calls[0] == 20 else log._unwritten)
    log._unwritten.clear()
    calls[0] += 1
calls = [0]
learner.state.event_log.EventLog._flush = flush
"""


def config(editor: Path, folder: Path, over=None) -> RunConfig:
    return tiny_run(
        editor,
        folder,
        "run",
        {"data": {"held_out_tasks": 1}, "report": {"gallery_tasks": 0, "gallery_groups": 0}, **(over or {})},
    )


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / ADAPTER).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


@pytest.fixture(scope="module")
def unbroken(nursery, tiny_kontext, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("unbroken")
    ended = nursery.run(config(tiny_kontext, folder))
    assert ended.code == 0, ended.said
    return sha(folder)


def killed_and_resumed(name, nursery, unbroken, tiny_kontext, tmp_path, capsys) -> None:
    """Kills a run at a point of `POINTS`, resumes it, and compares with the unbroken one."""
    point, replayed = POINTS[name]
    settings = config(tiny_kontext, tmp_path)
    killed = nursery.run(settings, point=point, script=HALF_A_LINE if name.startswith("half") else None)
    assert (killed.code, killed.point) == (-9, str(point)), killed.said
    assert not (tmp_path / "run" / "summary.json").exists()

    resumed = nursery.run(settings, resume=True)
    assert resumed.code == 0, resumed.said
    assert sha(tmp_path) == unbroken
    events = Counter(event["event"] for event in read_events(tmp_path / "run" / "events.jsonl"))
    assert events["started"] + events["resumed"] == 2 or name == "while it starts"
    if replayed is not None:
        assert events["replayed"] == replayed
    assert audit([str(tmp_path / "run")]) == 0, capsys.readouterr().out
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.suffix == ".partial" or "tmp." in path.name]
    assert left == [] and list((tmp_path / "run" / "spool").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_TIME)
def test_a_run_that_was_killed_ends_with_the_same_bytes(name, nursery, unbroken, tiny_kontext, tmp_path, capsys):
    killed_and_resumed(name, nursery, unbroken, tiny_kontext, tmp_path, capsys)


ALL_STATE = {
    "algorithm": {
        "type": "diffusion_nft",  # whose rollouts are under a mean of the weights
        "preservation": {"background_weight": 0.2, "background_target": 30.0, "background_rate": 0.5},
    },
    "rewards": {"weights": {"edit_psnr": 1.0, "background_psnr": 0.0, "acd": 0.0}},  # so that only the target reads it
    "sampler": {"steps": 3},
    "learner": {"optimizer": {"ema": 0.5}},
}


@pytest.mark.slow
def test_means_of_the_weights_and_a_background_weight_come_back_after_a_kill(nursery, tiny_kontext, tmp_path):
    whole, broken = (config(tiny_kontext, tmp_path / name, ALL_STATE) for name in ("whole", "broken"))
    unbroken = nursery.run(whole)
    assert unbroken.code == 0, unbroken.said
    killed = nursery.run(broken, point=Point("torch.optim:AdamW.step", 4, after=True))
    assert killed.code == -9, killed.said
    resumed = nursery.run(broken, resume=True)
    assert resumed.code == 0, resumed.said
    assert sha(tmp_path / "whole") == sha(tmp_path / "broken")
    events = [event["event"] for event in read_events(tmp_path / "broken" / "run" / "events.jsonl")]
    assert events.count("replayed") == 4, "what was measured of these is in the spool"
    one, other = (load_step(tmp_path / name / "run" / "checkpoints", 4) for name in ("whole", "broken"))
    ended, again = (checkpoint.state["learner"]["constraint"] for checkpoint in (one, other))
    assert ended == again and ended["weight"] != 0.2
    assert one.tensors.keys() == other.tensors.keys() > {"running_mean", "adapter_of_version_4"}
    for part, arrays in one.tensors.items():
        assert all(torch.equal(array, other.tensors[part][name]) for name, array in arrays.items())


@pytest.mark.slow
@pytest.mark.parametrize("call", [9])
def test_asynchronous_runs_keep_exact_accounts(call, nursery, tiny_kontext, tmp_path):
    over = {"cluster": {"staleness": 2, "publish_every": 2}, "learner": {"steps": 8}, "checkpoint": {"every": 3}}
    settings = config(tiny_kontext, tmp_path, over)
    killed = nursery.run(settings, point=Point("learner.update.learner:Learner._accumulate", call))
    assert killed.code == -9, killed.said
    resumed = nursery.run(settings, resume=True)
    assert resumed.code == 0, resumed.said
    result = audited(tmp_path / "run" / "events.jsonl")
    assert not any(result.faults.values()), result.faults
    assert len(result.trained) == 16 and result.counts["replayed"] > 0
