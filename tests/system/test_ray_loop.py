"""Whole runs on real Ray processes: equal to one process bit for bit, and whole after a worker is killed."""

import os
import signal

import numpy as np
import pytest

from actors.slots import Slots
from learner.audit import audited
from learner.errors import RunFailed
from learner.run import run
from learner.state.event_log import read_events
from tests.descendants import descendants
from tests.learner.adapters import same_adapter
from tests.learner.rig import GIVEN
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_ray_and_one_process_give_the_same_bits(ray_cluster, tiny_kontext, tmp_path):
    inline, on_ray = Watcher(), Watcher()
    alone = run(tiny_run(tiny_kontext, tmp_path, "inline"), observers=[inline])
    many = run(tiny_run(tiny_kontext, tmp_path, "ray", {"cluster": {"mode": "ray"}}), observers=[on_ray])
    assert same_adapter(tmp_path / "inline", tmp_path / "ray")
    for part in ("base", "final", "gain", "reward_std", "counters"):
        assert alone[part] == many[part], part
    for a, b in zip(inline.evaluations, on_ray.evaluations, strict=True):
        assert np.array_equal(a.shown[0].image, b.shown[0].image)
        assert np.array_equal(a.shown[0].attention, b.shown[0].attention)
    assert [g.lease for g in inline.groups] == [g.lease for g in on_ray.groups]
    assert all(
        (a.images is None) == (b.images is None) and (a.images is None or np.array_equal(a.images, b.images))
        for a, b in zip(inline.groups, on_ray.groups, strict=True)
    )
    pids = {e["pid"] for e in read_events(tmp_path / "ray" / "events.jsonl") if e["event"] == "generated"}
    # The groups came from other processes; from one only where the second worker started after the short run.
    assert pids and os.getpid() not in pids


OTHERS = (
    "neighbor_grpo",
    "edit_grpo",
    "locus",
    "flow_grpo",
    "spatialflow_grpo",
    "dance_grpo",
    "mix_grpo",
    "cocoedit",
    "final_sample",
    "sft",
    "dpo",
)


@pytest.mark.parametrize("kind", ["diffusion_nft", *(pytest.param(one, marks=pytest.mark.fault) for one in OTHERS)])
def test_ray_and_one_process_give_the_same_bits_by_any_method(ray_cluster, tiny_kontext, tmp_path, kind):
    """With a running mean that is measured on the way and exported, and a background weight that follows a target."""
    anchored = kind in ("neighbor_grpo", "edit_grpo", "locus")
    method = {"type": kind, "trained_steps": [0, 1]} if anchored else {"type": kind}
    method["preservation"] = {"background_weight": 0.2, "background_target": 30.0}
    over = {
        "algorithm": method,
        "sampler": {"steps": 3},
        "learner": {"optimizer": {"ema": 0.5}},
        "report": {"gallery_tasks": 0, "evaluate_every": 2},
    }
    if kind in GIVEN:
        del method["preservation"]["background_target"]  # it measures what a policy rolls out
        over["rewards"] = {"weights": {"rank": 1.0}}
    alone = run(tiny_run(tiny_kontext, tmp_path, "inline", over))
    many = run(tiny_run(tiny_kontext, tmp_path, "ray", {**over, "cluster": {"mode": "ray"}}))
    assert same_adapter(tmp_path / "inline", tmp_path / "ray")
    assert alone["final"] == many["final"] and alone["gain"] == many["gain"]
    one, other = (
        [e for e in read_events(tmp_path / name / "events.jsonl") if e["event"] == "evaluated"]
        for name in ("inline", "ray")
    )
    means = [e["fingerprint"] for e in one]
    assert means == [e["fingerprint"] for e in other] and means[0] is None and None not in means[1:]
    assert len(set(means)) == 3 and not any(audited(tmp_path / "ray" / "events.jsonl").faults.values())


class Killer(Watcher):
    """Kills rollout workers that have leases out, when the first group of the second step is taken."""

    def __init__(self, event_log, count):
        super().__init__()
        self.event_log, self.count, self.victims = event_log, count, []

    def on_group(self, record):
        super().on_group(record)
        if record.step == 1 and not self.victims:
            pids = [e["pid"] for e in read_events(self.event_log) if e["event"] == "worker_started"]
            self.victims = pids[: self.count]
            for pid in self.victims:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("staleness", "count"), [(0, 1), pytest.param(1, 2, marks=pytest.mark.fault)])
def test_killed_workers_are_replaced_and_their_groups_redone(ray_cluster, tiny_kontext, tmp_path, staleness, count):
    path = tmp_path / "killed" / "events.jsonl"
    watcher = Killer(path, count)
    config = tiny_run(
        tiny_kontext,
        tmp_path,
        "killed",
        {
            "sampler": {"steps": 30},  # long enough that the kill falls into a rollout
            "learner": {"steps": 3, "groups_per_step": 8},
            "cluster": {"mode": "ray", "staleness": staleness},
            "report": {"gallery_groups": 0},
        },
    )
    summary = run(config, observers=[watcher])
    events = list(read_events(path))
    lost = [e for e in events if e["event"] == "worker_lost"]
    requeued = [e for e in events if e["event"] == "requeued"]
    # The kill fell into the middle of the work: the workers had leases out, and those were redone.
    assert {e["pid"] for e in lost} == set(watcher.victims) and len(lost) == count
    assert min(e["jobs"] for e in lost) >= 1 and sum(e["jobs"] for e in lost) == len(requeued)
    assert summary["counters"] == {
        "leased": 24 + len(requeued),
        "trained": 24,
        "rejected": 0,
        "requeued": len(requeued),
        "in_flight": 0,
        "replayed": 0,
    }
    trained = {e["group"] for e in events if e["event"] == "trained"}
    assert len(trained) == 24 and not trained & {e["group"] for e in requeued}
    for e in requeued:  # each as the next attempt at the same place
        step, slot, attempt = e["group"].split(".")
        assert f"{step}.{slot}.{int(attempt) + 1}" in trained
    assert [step.staleness for step in watcher.steps if max(step.staleness) > staleness] == []
    # The learner took every group's own step again, under the version that the group names, and found it the same.
    assert all(step.learner["leap_error"] < 1e-4 for step in watcher.steps)
    first_loss = min(e["seq"] for e in lost)
    late = [e for e in events if e["event"] == "generated" and e["seq"] > first_loss]
    if count == 2:
        # Neither of the first two was left: replacements did the rest, after proving the weights of their time.
        started = [e for e in events if e["event"] == "worker_started"][2:]
        assert started and all(e["version"] >= 1 and e["seq"] > first_loss for e in started)
        for e in late:
            assert any(s["pid"] == e["pid"] and s["seq"] < e["seq"] for s in started) or e["pid"] in watcher.victims
        assert {e["pid"] for e in late} & {s["pid"] for s in started}


@pytest.mark.fault
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_worker_killed_in_a_measurement_changes_no_result(ray_cluster, tiny_kontext, tmp_path, monkeypatch, ema):
    """Its replacement holds what is measured, also where that is a mean of the weights."""
    overrides = {"learner": {"steps": 1, "optimizer": {"ema": ema}}, "data": {"held_out_tasks": 17}}
    inline, on_ray = Watcher(), Watcher()
    run(tiny_run(tiny_kontext, tmp_path, "inline", overrides), observers=[inline])
    give, victims = Slots.give, []

    def give_and_kill(slots, worker, job, now):
        give(slots, worker, job, now)
        if on_ray.steps and not victims:  # all that is left to do is to measure
            victims.append(worker.pid)
            os.kill(victims[0], signal.SIGKILL)

    monkeypatch.setattr(Slots, "give", give_and_kill)
    run(tiny_run(tiny_kontext, tmp_path, "ray", {**overrides, "cluster": {"mode": "ray"}}), observers=[on_ray])
    (lost,) = [e for e in read_events(tmp_path / "ray" / "events.jsonl") if e["event"] == "worker_lost"]
    assert lost["pid"] == victims[0] and lost["jobs"] >= 1
    assert [e.label for e in on_ray.evaluations] == ["base", "final"]
    for a, b in zip(inline.evaluations, on_ray.evaluations, strict=True):
        assert a.tasks == b.tasks == 17 and a.mean == b.mean and a.standard_error == b.standard_error
        assert a.running_mean == b.running_mean and (a.running_mean is None) == (ema is None or a.label == "base")


class KillerOfTheLearner(Watcher):
    """Kills the learner's process once two steps are done."""

    def on_step(self, record):
        super().on_step(record)
        if record.step == 2:
            (learner,) = descendants("ray::LearnerHost")
            learner.kill()


@pytest.mark.fault
def test_a_killed_learner_stops_the_run_with_a_sentence_and_a_resume_ends_with_the_same_bits(
    ray_cluster, tiny_kontext, tmp_path
):
    overrides = {"learner": {"steps": 3}, "checkpoint": {"every": 1}, "data": {"held_out_tasks": 1}}
    run(tiny_run(tiny_kontext, tmp_path, "whole", overrides))
    on_ray = tiny_run(tiny_kontext, tmp_path, "broken", {**overrides, "cluster": {"mode": "ray"}})
    with pytest.raises(RunFailed, match=r"The learner died: .*Continue from the last checkpoint with --resume"):
        run(on_ray, observers=[KillerOfTheLearner()])
    summary = run(tiny_run(tiny_kontext, tmp_path, "broken", overrides), resume=True)
    assert summary["first_step"] == 2
    assert same_adapter(tmp_path / "whole", tmp_path / "broken")


def test_a_learner_that_finds_no_place_in_the_cluster_stops_the_run_with_a_sentence(
    ray_cluster, tiny_kontext, tmp_path
):
    config = tiny_run(
        tiny_kontext, tmp_path, "waiting", {"cluster": {"mode": "ray", "gpus_for_learner": 1000, "group_timeout": 3.0}}
    )
    with pytest.raises(RunFailed, match=r"The learner did not become ready within 3 s .*cluster\.gpus_for_learner"):
        run(config)
