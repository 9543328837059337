"""The disk is full while a checkpoint or a group is written: earlier ones stay, nothing is left, the run goes on.

A limit on the size of files (RLIMIT_FSIZE) stands for the disk: like it, it leaves a part of the file.
"""

import pytest

from learner.audit import audited
from learner.state.checkpoint import load_step
from learner.state.event_log import read_events
from tests.learner.nursery import Point
from tests.learner.test_kill import config, nursery, sha, unbroken  # noqa: F401 (fixtures)

pytestmark = pytest.mark.fault

FULL = """
import resource
from functools import wraps
from {module} import {kind}
whole, calls = {kind}.{name}, [0]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

@wraps(whole)
def limited(*arguments, **named):
    calls[0] += 1
    if calls[0] in {when}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        return whole(*arguments, **named)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

{kind}.{name} = limited
"""


def full(kind: str, when) -> str:
    module, _, name = kind.rpartition(".")
    module, _, kind = module.rpartition(".")
    return FULL.format(module=module, kind=kind, name=name, when=list(when))


def told(tmp_path, *names) -> list:
    return [
        (e["event"], e.get("step", e.get("group")))
        for e in read_events(tmp_path / "run" / "events.jsonl")
        if e["event"] in names
    ]


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_tried_again(nursery, unbroken, tiny_kontext, tmp_path):  # noqa: F811
    settings = config(tiny_kontext, tmp_path)
    ended = nursery.run(
        settings,
        script=full("learner.update.learner.Learner.save", [2]),
        point=Point("learner.scheduling.collector:Collector.settle", 3),
    )
    assert ended.code == -9, ended.said
    assert told(tmp_path, "checkpoint", "not_saved") == [("checkpoint", 0), ("not_saved", 2)]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step_000000"] and load_step(checkpoints, 0)
    assert len(list((tmp_path / "run" / "spool").iterdir())) == 6  # nothing was let go of

    ended = nursery.run(settings, resume=True, script=full("learner.update.learner.Learner.save", [1]))
    assert ended.code == 0 and sha(tmp_path) == unbroken, ended.said
    assert told(tmp_path, "checkpoint", "not_saved")[2:] == [("not_saved", 2), ("checkpoint", 3), ("checkpoint", 4)]
    faults = audited(tmp_path / "run" / "events.jsonl").faults
    assert not any(faults.values()), faults


@pytest.mark.slow
def test_a_group_that_does_not_fit_is_used_all_the_same(nursery, unbroken, tiny_kontext, tmp_path):  # noqa: F811
    ended = nursery.run(config(tiny_kontext, tmp_path), script=full("learner.state.spool.Spool.write", [2, 5]))
    assert ended.code == 0 and sha(tmp_path) == unbroken, ended.said
    assert told(tmp_path, "not_spooled") == [("not_spooled", "000000.001.0"), ("not_spooled", "000002.000.0")]
    result = audited(tmp_path / "run" / "events.jsonl")
    assert not any(result.faults.values()), result.faults
    assert list((tmp_path / "run" / "spool").iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_stays_full_stops_the_run_with_a_sentence(nursery, tiny_kontext, tmp_path):  # noqa: F811
    ended = nursery.run(config(tiny_kontext, tmp_path), script=full("learner.state.spool.Spool.write", range(1, 99)))
    assert ended.code == 1 and "In 3 steps in a row the disk refused groups for the spool" in ended.said, ended.said
    assert "The run is saved up to step 3" in ended.said and "--resume" in ended.said
