"""A run whose gradients stop being finite goes back once, and on with other noise (F20)."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from editing.data import open_tasks
from learner.audit import audited
from learner.run import run
from learner.state.checkpoint import load_latest
from learner.state.event_log import read_events
from learner.state.rollback import Diverged, roll_back, rolled_back_to
from learner.update.learner import Learner
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run


def spoiled(monkeypatch, bad):
    """Every gradient of a group for which `bad(lease)` is infinite."""
    whole = Learner._accumulate

    def add(learner, held, reward, first):
        whole(learner, held, reward, first)
        if bad(held.group.lease):
            next(iter(learner.parameters.values())).grad[0, 0] = float("inf")

    monkeypatch.setattr(Learner, "_accumulate", add)


def test_the_run_goes_back_to_before_the_trouble_and_ends_well(tiny_kontext, tmp_path, monkeypatch):
    spoiled(monkeypatch, lambda lease: lease.step >= 3 and lease.attempt == 0)
    watcher, opened = Watcher(), []
    monkeypatch.setattr("learner.run.open_tasks", lambda asked: opened.append(asked) or open_tasks(asked))
    summary = run(tiny_run(tiny_kontext, tmp_path, "back", {"learner": {"steps": 10}}), observers=[watcher])
    events = list(read_events(tmp_path / "back" / "events.jsonl"))
    # It happened: steps 4 to 8 were skipped, and no checkpoint was made of them.
    assert [e["step"] for e in events if e["event"] == "step_skipped"] == [4, 5, 6, 7, 8]
    (back,) = [e for e in events if e["event"] == "rolled_back"]
    assert back["step"] == 2 and rolled_back_to(tmp_path / "back") == 2
    assert any("The run goes back to step 2 and on with other noise" in notice for notice in watcher.notices)
    assert [step.step for step in watcher.steps] == [1, 2, 3, 4, 5, 6, 7, *range(3, 11)]
    # Nothing of what came after is left, in the weights or in the lease counters.
    assert all(step.learner["skipped_updates"] == 0 for step in watcher.steps[-8:])
    assert all(np.isfinite(array).all() for array in load_file(summary["adapter"]).values())
    assert summary["counters"]["trained"] == 20 and summary["first_step"] == 2
    assert len(opened) == 1  # its data is what it was
    faults = audited(tmp_path / "back" / "events.jsonl").faults
    assert not any(faults.values()), faults
    again = {e["group"] for e in events if e["event"] == "leased" and e["seq"] > back["seq"]}
    assert {group.rsplit(".")[2] for group in again} == {"1"}


def test_a_second_time_it_stops(tiny_kontext, tmp_path, monkeypatch):
    spoiled(monkeypatch, lambda lease: lease.step >= 1)
    with pytest.raises(Diverged, match=r"not finite in 5 steps in a row, up to step 6.* went back once .*to step 0"):
        run(tiny_run(tiny_kontext, tmp_path, "twice", {"learner": {"steps": 10}}))
    events = [e["event"] for e in read_events(tmp_path / "twice" / "events.jsonl")]
    assert events.count("rolled_back") == 1 and events.count("step_skipped") == 10 and events[-1] == "failed"


def test_checkpoints_of_the_trouble_itself_are_passed_over(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "saved", {"checkpoint": {"every": 1, "keep": 9}})
    run(config)
    folder = tmp_path / "saved"
    from learner.state.checkpoint import read_checkpoint, save_checkpoint

    old = read_checkpoint(folder / "checkpoints" / "step_000004")
    state = {**old.state, "learner": {**old.state["learner"], "skipped_in_a_row": 2}}
    save_checkpoint(folder / "checkpoints", 4, old.tensors, state, 9, old.config_hash, old.data, old.code)
    assert roll_back(folder, Diverged("why")) == 3
    assert load_latest(folder / "checkpoints")[0].step == 3
    with pytest.raises(Diverged, match="why The run went back once already, to step 3"):
        roll_back(folder, Diverged("why"))
