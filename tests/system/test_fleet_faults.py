"""Whole runs whose workers die, hang, cannot start or lose weights, and fleets that grow and shrink meanwhile.

Each fault leaves a file behind when it strikes, so that a test knows that it did.
"""

import json

import pytest

import actors.fleet
from learner.audit import audited
from learner.errors import RunFailed
from learner.run import run
from learner.state.event_log import read_events
from tests.learner.adapters import same_adapter
from tests.learner.tiny_run import tiny_run
from tests.system.faulty import Scaler, faulty_worker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def faulty(ray_cluster, monkeypatch, tmp_path):
    """Has the run `name` use workers with these faults; returns where they leave their traces."""

    def make(name, plan):
        struck = tmp_path / f"{name}.struck"
        struck.mkdir()
        worker = faulty_worker(struck, plan, tmp_path / name / "events.jsonl")
        monkeypatch.setattr(actors.fleet, "RolloutActor", worker)
        return struck

    return make


def events_of(folder, name, kind=None):
    found = list(read_events(folder / name / "events.jsonl"))
    return found if kind is None else [event for event in found if event["event"] == kind]


def holds(folder, name):
    """Every promise of the run, proved again from its event log."""
    return not any(audited(folder / name / "events.jsonl").faults.values())


def test_workers_that_die_or_hang_in_the_middle_of_a_group_cost_that_group_an_attempt(faulty, tiny_kontext, tmp_path):
    plan = {"000000.000.0": "9", "000000.003.0": "11", "000001.001.0": "exit", "000001.003.0": "hang"}
    struck = faulty("faulty", plan)
    config = tiny_run(
        tiny_kontext,
        tmp_path,
        "faulty",
        {
            "sampler": {"steps": 6},
            "learner": {"steps": 3, "groups_per_step": 4},
            "data": {"held_out_tasks": 1},
            "cluster": {"mode": "ray", "groups_in_flight": 1, "group_timeout": 45.0},
            "report": {"gallery_groups": 0, "gallery_tasks": 0},
        },
    )
    summary = run(config)
    victims = {group: json.loads((struck / group).read_text())["pid"] for group in plan}
    assert all((struck / f"{group} at call 4").exists() for group in plan)  # each fault struck in mid-trajectory
    lost = events_of(tmp_path, "faulty", "worker_lost")
    assert sorted(event["pid"] for event in lost) == sorted(victims.values())
    (hung,) = [event for event in lost if event["pid"] == victims["000001.003.0"]]
    assert hung["reason"] == "no response within 45 s (cluster.group_timeout)"
    assert {event["group"] for event in events_of(tmp_path, "faulty", "requeued")} == set(plan)
    assert summary["counters"] == {
        "leased": 16,
        "trained": 12,
        "rejected": 0,
        "requeued": 4,
        "in_flight": 0,
        "replayed": 0,
    }
    trained = {event["group"] for event in events_of(tmp_path, "faulty", "trained")}
    assert {group[:-1] + "1" for group in plan} <= trained and not set(plan) & trained
    # Every group came whole from one process, and from none that had died over another.
    made = {event["group"]: event["pid"] for event in events_of(tmp_path, "faulty", "generated")}
    assert set(made) == trained and len(events_of(tmp_path, "faulty", "generated")) == len(made)
    started = {event["pid"]: event for event in events_of(tmp_path, "faulty", "worker_started")}
    for event in events_of(tmp_path, "faulty", "generated"):
        assert started[event["pid"]]["seq"] < event["seq"]
    assert holds(tmp_path, "faulty")


def test_a_worker_that_cannot_start_is_given_up_and_the_other_does_the_work(faulty, tiny_kontext, tmp_path):
    struck = faulty("lame", {"start": "once", "2": "worker_given_up*1"})
    run(
        tiny_run(
            tiny_kontext,
            tmp_path,
            "lame",
            {
                "data": {"held_out_tasks": 1},
                "report": {"gallery_groups": 0, "gallery_tasks": 0},
                "cluster": {"mode": "ray", "max_restarts": 1},
            },
        )
    )
    assert (struck / "cannot start").read_text() == "xx"  # a start and a restart
    assert [event["again_in"] for event in events_of(tmp_path, "lame", "worker_lost")] == [1.0, None]
    (given_up,) = events_of(tmp_path, "lame", "worker_given_up")
    assert given_up["left"] == 1 and "the driver of this GPU is too old" in given_up["reason"]
    assert len(events_of(tmp_path, "lame", "worker_started")) == 1 and holds(tmp_path, "lame")


def test_below_the_floor_the_run_stops_with_its_state_saved(faulty, tiny_kontext, tmp_path):
    faulty("floor", {"start": "once", "2": "worker_given_up*1"})
    with pytest.raises(
        RunFailed,
        match=r"1 rollout workers are left, expected at least 2 "
        r"\(cluster\.min_rollout_workers\).*driver of this GPU is too old.* saved",
    ):
        run(
            tiny_run(
                tiny_kontext,
                tmp_path,
                "floor",
                {
                    "data": {"held_out_tasks": 1},
                    "report": {"gallery_groups": 0, "gallery_tasks": 0},
                    "checkpoint": {"every": 100},
                    "cluster": {"mode": "ray", "max_restarts": 1, "min_rollout_workers": 2},
                },
            )
        )
    assert events_of(tmp_path, "floor", "failed") and events_of(tmp_path, "floor", "checkpoint")
    assert holds(tmp_path, "floor")


def test_weights_that_get_lost_are_sent_again_and_nothing_else_changes(faulty, tiny_kontext, tmp_path):
    overrides = {"data": {"held_out_tasks": 1}, "report": {"gallery_groups": 0, "gallery_tasks": 0}}
    run(tiny_run(tiny_kontext, tmp_path, "whole", overrides))
    struck = faulty("lossy", {"1": "dropped", "2": "shape", "3": "bits"})
    # One worker: with more, the run would not wait for the one that is behind.
    run(tiny_run(tiny_kontext, tmp_path, "lossy", {**overrides, "cluster": {"mode": "ray", "rollout_workers": 1}}))
    again = events_of(tmp_path, "lossy", "weights_repushed")
    assert [event["version"] for event in again] == [1, 2, 3]
    assert all((struck / f"not taken {version}").exists() for version in (1, 2, 3))  # it was at the old one, or at none
    assert "got float32 [1, 32]" in again[1]["reason"] and "changed on the way" in again[2]["reason"]
    assert events_of(tmp_path, "lossy", "worker_lost") == [] and events_of(tmp_path, "lossy", "requeued") == []
    assert holds(tmp_path, "lossy") and same_adapter(tmp_path / "whole", tmp_path / "lossy")


def test_a_group_is_never_made_with_weights_that_a_worker_only_said_to_hold(faulty, tiny_kontext, tmp_path):
    struck = faulty("liar", {"2": "acknowledged and dropped"})
    run(
        tiny_run(
            tiny_kontext,
            tmp_path,
            "liar",
            {
                "data": {"held_out_tasks": 1},
                "report": {"gallery_groups": 0, "gallery_tasks": 0},
                "cluster": {"mode": "ray", "rollout_workers": 1},
            },
        )
    )
    liar = json.loads((struck / "weights 2").read_text())["pid"]
    requeued = events_of(tmp_path, "liar", "requeued")
    assert requeued and all("asks for policy version 2" in event["reason"] for event in requeued)
    assert all(f"worker {liar} holds 1" in event["reason"] for event in requeued)
    assert [event["pid"] for event in events_of(tmp_path, "liar", "weights_repushed")] == [liar]
    assert events_of(tmp_path, "liar", "worker_lost") == []
    assert holds(tmp_path, "liar")


def test_a_fleet_grows_and_shrinks_in_a_run_that_ends_with_the_same_bits(faulty, tiny_kontext, tmp_path):
    overrides = {
        "learner": {"steps": 6, "groups_per_step": 4},
        "data": {"held_out_tasks": 1},
        "report": {"gallery_groups": 0, "gallery_tasks": 0},
    }
    run(tiny_run(tiny_kontext, tmp_path, "whole", overrides))
    faulty(
        "elastic", {"1": "worker_started*3", "3": "resize_refused*1", "4": "fleet_resized*2", "5": "worker_drained*2"}
    )
    run(
        tiny_run(tiny_kontext, tmp_path, "elastic", {**overrides, "cluster": {"mode": "ray", "rollout_workers": 1}}),
        observers=[Scaler(tmp_path / "elastic", {1: 3, 3: "nonsense", 4: 1})],
    )
    resized = [(event["before"], event["after"]) for event in events_of(tmp_path, "elastic", "fleet_resized")]
    assert resized == [(1, 3), (3, 1)]
    (refused,) = events_of(tmp_path, "elastic", "resize_refused")
    assert "is invalid" in refused["reason"]
    groups = events_of(tmp_path, "elastic", "generated")
    makers = [{event["pid"] for event in groups if event["group"].startswith(f"{step:06d}")} for step in range(6)]
    assert len(makers[0]) == 1 and len(makers[1]) > 1 and len(makers[5]) == 1
    assert len(events_of(tmp_path, "elastic", "worker_drained")) == 2
    assert events_of(tmp_path, "elastic", "worker_lost") == [] and events_of(tmp_path, "elastic", "requeued") == []
    assert holds(tmp_path, "elastic") and same_adapter(tmp_path / "whole", tmp_path / "elastic")
