"""The loop over a fake backend: what is called when, and what observers and event log hear."""

import math
from dataclasses import asdict, replace

import pytest

from configs.schema import RunConfig
from learner.backends.base import Unsaved
from learner.errors import LearnerLost, RunFailed
from learner.loop import train
from learner.reporting.records import Counters, EvaluationRecord, GroupRecord, StepRecord
from learner.reporting.reporter import Reporter
from learner.scheduling.active_run import ActiveRun, Progress, Resumed
from learner.scheduling.step_records import gallery_steps
from learner.shutdown import Stopping, Terminated
from learner.state.event_log import EventLog, read_events
from learner.state.rollback import Diverged
from rewards.result import Score
from tests.learner import fake_backend
from tests.learner.fake_backend import FakeBackend


class Watcher:
    def __init__(self):
        self.groups: list[GroupRecord] = []
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self.notices: list[str] = []

    def on_start(self, record): ...
    def on_notice(self, sentence):
        self.notices.append(sentence)

    def on_group(self, record):
        self.groups.append(record)

    def on_step(self, record):
        self.steps.append(record)

    def on_evaluation(self, record):
        self.evaluations.append(record)

    def on_end(self, summary): ...


def run(tmp_path, first_step=0, fate=lambda lease: "ok", stopping=None, applied=lambda step: True, **sections):
    settings = RunConfig.model_validate(
        {
            "sampler": {"group_size": 3},
            "algorithm": {"anchors": 2},
            "rewards": {"weights": {"background_psnr": 2.0}, "floors": {"background_psnr": 0.0}},
            "learner": {"steps": 5, "groups_per_step": 2},
            "checkpoint": {"every": 2},
            **sections,
        }
    )
    backend = FakeBackend(
        settings, choose=lambda n: 0, fate=fate, first_step=first_step, version=first_step, applied=applied
    )
    watcher = Watcher()
    with EventLog(tmp_path / "events.jsonl") as events:
        backend.notify = events.write
        resumed = Resumed(counters=asdict(Counters())) if first_step else Resumed()
        progress = Progress(first_step, first_step if first_step else None)
        active = ActiveRun(settings, backend, Reporter(events, [watcher]), 7, 4, progress, stopping or Stopping())
        result = train(active, resumed)
    return backend, watcher, result


def calls(backend, *names):
    return [call for call in backend.calls if call[0] in names]


def test_every_step_is_updated_published_and_saved_when_due(tmp_path):
    backend, watcher, result = run(tmp_path)
    assert calls(backend, "update", "publish", "save") == [
        ("save", 0),
        ("update", 2),
        ("publish", 1),
        ("update", 2),
        ("publish", 2),
        ("save", 2),
        ("update", 2),
        ("publish", 3),
        ("update", 2),
        ("publish", 4),
        ("save", 4),
        ("update", 2),
        ("publish", 5),
        ("save", 5),
    ]
    assert [step.step for step in watcher.steps] == [1, 2, 3, 4, 5] and watcher.steps[2].version == 3
    assert (result.counters.leased, result.counters.trained, result.counters.in_flight) == (10, 10, 0)


def test_weights_are_published_as_rarely_as_asked_but_always_at_the_end(tmp_path):
    backend, watcher, _ = run(tmp_path, cluster={"staleness": 2, "publish_every": 2})
    assert [version for _, version in calls(backend, "publish")] == [2, 4, 5]
    ages = {age: sum(step.staleness.get(age, 0) for step in watcher.steps) for age in range(3)}
    assert sum(ages.values()) == 10 and ages[1] > 0


def test_a_resumed_run_does_the_rest(tmp_path):
    backend, watcher, _ = run(tmp_path, first_step=3)
    assert [version for _, version in calls(backend, "publish")] == [4, 5]
    assert {lease.step for lease in backend.submitted} == {3, 4}
    assert [group.lease.policy_version for group in watcher.groups] == [3, 3, 4, 4]


def test_the_held_out_tasks_are_measured_in_between_on_published_weights(tmp_path):
    backend, watcher, _ = run(
        tmp_path, cluster={"staleness": 4, "publish_every": 5}, report={"evaluate_every": 2, "gallery_tasks": 3}
    )
    assert calls(backend, "publish", "measure") == [
        ("publish", 2),
        ("measure", 2, False, 3),
        ("publish", 4),
        ("measure", 4, False, 3),
        ("publish", 5),
    ]
    record = watcher.evaluations[0]
    assert (record.label, record.step, record.tasks) == ("training", 2, 4)
    assert record.mean == {"background_psnr": 22.5}
    assert record.standard_error["background_psnr"] == pytest.approx(math.sqrt(5 / 3 / 4))


def test_a_step_record_says_what_happened(tmp_path):
    lost = iter(["lost", "unscored"])
    _, watcher, result = run(tmp_path, fate=lambda lease: next(lost, "ok"))
    first, last = watcher.steps[0], watcher.steps[-1]
    assert (first.counters.requeued, first.counters.rejected, first.counters.leased) == (1, 1, 4)
    assert first.staleness == {0: 2} and first.zero_std_share == 0
    assert first.learner["loss"] == 0.0 and first.learner["optimizer_seconds"] == 0.5
    assert set(first.reward_mean) == {"background_psnr", "reward"}
    assert first.reward_mean["reward"] == pytest.approx(2 * first.reward_mean["background_psnr"])
    assert set(last.seconds) == {"rollout", "update", "publish", "checkpoint", "step"}
    assert last.seconds["step"] >= sum(v for k, v in last.seconds.items() if k != "step")
    assert set(result.seconds) == {"rollout", "update", "publish", "checkpoint", "step"}
    assert result.seconds["step"] == pytest.approx(sum(step.seconds["step"] for step in watcher.steps))
    assert last.groups_per_minute == pytest.approx(120 / last.seconds["step"])


def test_groups_for_the_gallery_come_with_images(tmp_path):
    _, watcher, _ = run(tmp_path, report={"gallery_groups": 2})
    assert [(g.step, g.lease.slot) for g in watcher.groups if g.images is not None] == [(0, 0), (4, 0)]
    assert len(watcher.groups) == 10


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [(5, 0, set()), (5, 1, {4}), (5, 2, {0, 4}), (5, 3, {0, 2, 4}), (2, 8, {0, 1}), (1, 4, {0})],
)
def test_gallery_steps_are_spread_over_the_run(steps, count, expected):
    assert gallery_steps(steps, count) == expected


def test_the_diary_tells_the_life_of_every_group(tmp_path):
    lost = iter(["lost"])
    run(tmp_path, fate=lambda lease: next(lost, "ok"))
    lives: dict[str, list[str]] = {}
    for event in read_events(tmp_path / "events.jsonl"):
        if "group" in event:
            lives.setdefault(event["group"], []).append(event["event"])
    assert lives.pop("000000.000.0") == ["leased", "requeued"]
    assert set(map(tuple, lives.values())) == {("leased", "generated", "scored", "trained")} and len(lives) == 10


def test_a_run_that_fails_is_saved_up_to_its_last_step(tmp_path):
    with pytest.raises(RunFailed, match=r"redone .* times .*The run is saved up to step 3 in step_3; .*--resume"):
        run(tmp_path, fate=lambda lease: "unscored" if lease.step == 3 else "ok")
    saved = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "checkpoint"]
    assert [e["step"] for e in saved] == [0, 2, 3]


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path):
    with pytest.raises(RunFailed, match=r"The run is saved up to its last step, 4; .*--resume"):
        run(tmp_path, fate=lambda lease: "unscored" if lease.step == 4 else "ok")
    assert [e["step"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "checkpoint"] == [0, 2, 4]


def test_even_a_run_without_a_step_can_be_resumed(tmp_path):
    with pytest.raises(RunFailed, match=r"saved up to its last step, 0; .*--resume"):
        run(tmp_path, fate=lambda lease: "unscored")


@pytest.mark.parametrize(("error", "saves"), [(LearnerLost, 1), (RunFailed, 2), (KeyboardInterrupt, 1)])
def test_what_a_lost_learner_holds_is_not_saved(tmp_path, monkeypatch, error, saves):
    whole, left = FakeBackend.update, iter(range(1))

    def fail(backend, meanwhile):
        if next(left, None) is None:
            raise error("it is over.")
        return whole(backend, meanwhile)

    monkeypatch.setattr(FakeBackend, "update", fail)
    with pytest.raises(error, match="it is over"):
        run(tmp_path)
    # One is that of step 0.
    assert sum(e["event"] == "checkpoint" for e in read_events(tmp_path / "events.jsonl")) == saves


def test_a_failed_save_does_not_hide_why_the_run_failed(tmp_path, monkeypatch):
    full(monkeypatch, lambda call: call > 0)
    with pytest.raises(RunFailed, match=r"redone .*1 steps .*could not be saved either: No space left.* is of step 0"):
        run(tmp_path, fate=lambda lease: "unscored" if lease.step == 1 else "ok")


def full(monkeypatch, when):
    """The disk refuses the n-th checkpoint (from 0) if `when` says so."""
    whole, calls = FakeBackend.save, iter(range(1000))

    def save(backend, extra):
        path = whole(backend, extra)
        return Unsaved("No space left on device") if when(next(calls)) else path

    monkeypatch.setattr(FakeBackend, "save", save)


def test_a_checkpoint_that_the_disk_refused_is_tried_again_after_the_next_step(tmp_path, monkeypatch):
    full(monkeypatch, lambda call: call in (1, 2))  # of steps 2 and 3
    _, watcher, _ = run(tmp_path)
    events = [
        (e["event"], e["step"])
        for e in read_events(tmp_path / "events.jsonl")
        if e["event"] in ("checkpoint", "not_saved")
    ]
    # Tried again successfully after step 4, which was due anyway.
    assert events == [("checkpoint", 0), ("not_saved", 2), ("not_saved", 3), ("checkpoint", 4), ("checkpoint", 5)]
    assert "checkpoint of step 2 could not be written: No space left on device" in watcher.notices[0]


def test_a_disk_that_stays_full_stops_the_run(tmp_path, monkeypatch):
    full(monkeypatch, lambda call: call > 0)
    with pytest.raises(RunFailed, match=r"has refused a checkpoint 3 times in a row: No space.*one is of step 0"):
        run(tmp_path, learner={"steps": 50, "groups_per_step": 2})
    assert [e["step"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "step"] == [1, 2, 3]


def test_a_last_checkpoint_that_cannot_be_written_fails_the_run(tmp_path, monkeypatch):
    full(monkeypatch, lambda call: call == 3)
    with pytest.raises(RunFailed, match=r"has refused a checkpoint 1 time.*The run is saved up to step 5"):
        run(tmp_path)


def test_groups_that_the_disk_refuses_are_told_of_and_stop_the_run_in_the_end(tmp_path, monkeypatch):
    whole, bad = FakeBackend.update, iter([True, False, True, True, True])

    def update(backend, meanwhile):
        report = whole(backend, meanwhile)
        name = backend.consumed[-2][0].lease.group_id
        if next(bad):
            report.totals.unspooled[name] = "No space left on device"
        return report

    monkeypatch.setattr(FakeBackend, "update", update)
    with pytest.raises(RunFailed, match=r"In 3 steps in a row the disk refused groups for the spool: No space"):
        run(tmp_path, learner={"steps": 50, "groups_per_step": 2})
    told = [e["group"][:6] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "not_spooled"]
    assert told == ["000000", "000002", "000003", "000004"]


@pytest.mark.parametrize("requested", [KeyboardInterrupt, Terminated])
def test_a_run_that_is_asked_to_stop_is_saved_first(tmp_path, requested):
    stopping = Stopping()

    def fate(lease):
        if lease.step == 3:
            stopping.requested = requested()
        return "ok"

    with pytest.raises(requested):
        run(tmp_path, fate=fate, stopping=stopping)
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [0, 2, 3]
    (told,) = [e["sentence"] for e in events if e["event"] == "stopping"]
    assert "saved up to step 3 in step_3; continue it with --resume. Groups so far: 6 leased, 6 trained" in told


def test_flat_rewards_raise_an_alarm_once(tmp_path):
    _, watcher, _ = run(
        tmp_path,
        rewards={"weights": {"background_psnr": 1.0}, "min_std": 100.0},
        learner={"steps": 8, "groups_per_step": 2},
    )
    assert [step.zero_std_share for step in watcher.steps] == [1.0] * 8
    (sentence,) = watcher.notices
    assert "taught nothing in 5 steps in a row" in sentence and "rewards.min_std" in sentence
    (event,) = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "alarm"]
    assert event["step"] == 5 and event["sentence"] == sentence


def test_a_judge_that_is_constant_beside_other_rewards_raises_the_alarm_and_is_named(tmp_path, monkeypatch):
    def delivery(config, lease, valid=None):
        whole = fake_backend_delivery(config, lease, valid)
        background = whole.scores.components["background_psnr"]
        judge = tuple(Score(value=0.6) for _ in background)
        return replace(
            whole, scores=replace(whole.scores, components={"background_psnr": background, "editscore": judge})
        )

    fake_backend_delivery = fake_backend.delivery
    monkeypatch.setattr(fake_backend, "delivery", delivery)
    _, watcher, _ = run(
        tmp_path,
        learner={"steps": 8, "groups_per_step": 2},
        rewards={
            "weights": {"editscore": 1.0, "background_psnr": 0.25},
            "judge": {"editscore": {"urls": ["http://host:1/v1"]}},
        },
    )
    assert [(step.zero_std_share, step.edit_zero_variance_share) for step in watcher.steps] == [(1.0, 1.0)] * 8
    assert all(step.reward_std["reward"] > 0 for step in watcher.steps)  # of the background: it is not learnt
    (sentence,) = watcher.notices
    assert "no reward for the edit (editscore) varied" in sentence
    (event,) = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "alarm"]
    assert (event["metric"], event["step"], event["size"]) == ("zero_std_share", 5, 1.0)


def test_invalid_candidates_are_counted_by_reason(tmp_path):
    fates = iter(["unscored"])
    _, watcher, _ = run(tmp_path, fate=lambda lease: next(fates, "ok"))
    assert [step.invalid for step in watcher.steps] == [{"background_psnr_failed": 2}, {}, {}, {}, {}]
    (scored,) = [e for e in read_events(tmp_path / "events.jsonl") if "invalid" in e]
    assert scored["valid"] == 1 and scored["invalid"] == {"background_psnr_failed": 2}


def test_judges_are_watched_after_each_step(tmp_path, monkeypatch):
    healthy = {f"editscore_{name}": 0.0 for name in ("unanswered", "refused", "bad")}
    numbers = iter([{**healthy, "editscore_in_rotation": 2.0}] * 2)
    later = {**healthy, "editscore_in_rotation": 1.0}
    monkeypatch.setattr(FakeBackend, "pool_statistics", lambda backend: next(numbers, later))
    _, watcher, _ = run(tmp_path)
    assert [step.judge["editscore_in_rotation"] for step in watcher.steps] == [2, 1, 1, 1, 1]
    assert watcher.notices == ["judge editscore: 1 server in rotation"]


def test_a_step_without_a_finite_gradient_is_told_and_the_checkpoint_before_it_kept(tmp_path):
    backend, watcher, _ = run(tmp_path, applied=lambda step: step not in (2, 3))
    events = list(read_events(tmp_path / "events.jsonl"))
    assert [(e["step"], e["in_a_row"]) for e in events if e["event"] == "step_skipped"] == [(2, 1), (3, 2)]
    assert any("step 2 is skipped: its gradient was not finite (1 in a row)" in notice for notice in watcher.notices)
    # That of step 2 was due when steps were skipped.
    assert [step for _, step in calls(backend, "save")] == [0, 4, 5]


def test_a_run_of_skipped_steps_ends_and_is_not_saved(tmp_path):
    with pytest.raises(Diverged, match=r"not finite in 5 steps in a row, up to step 7"):
        run(tmp_path, applied=lambda step: step < 3, learner={"steps": 9, "groups_per_step": 2})
    assert [e["step"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "checkpoint"] == [0, 2]
