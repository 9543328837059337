"""Alarms raised during training: on series of real runs (`alarm_series`), and in real runs."""

import json
from pathlib import Path

import pytest

from configs.load import config_hash, load_config
from configs.schema import RunConfig
from editing.trajectory import Lease
from learner.audit import audited
from learner.reporting.alarm_monitor import AlarmMonitor, notifications
from learner.reporting.alarms import CHANGE
from learner.reporting.records import Counters, EvaluationRecord, GroupRecord, RunRecord, StepRecord
from learner.run import run
from learner.state.event_log import read_events
from rewards.result import GroupScores, Score
from tests.learner.test_loop import Watcher

SERIES = Path(__file__).parent / "alarm_series"
COLLAPSING = Path(__file__).parents[2] / "collapsing"


def series(name: str) -> dict:
    return json.loads((SERIES / f"{name}.json").read_text())


def groups_of(found: dict) -> list[dict[str, list[float]]]:
    return [
        {CHANGE: change, **{name: [values[i]] for name, values in found["drifts"].items()}}
        for i, change in enumerate(found[CHANGE])
    ]


def rows_of(columns: dict) -> list[dict[str, float]]:
    return [
        {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(len(columns["edit_psnr"]))
    ]


class Played:
    """An `AlarmMonitor` that is shown what a run left; `events` is what it told."""

    def __init__(self, found: dict, measured: bool, first: int = 0, last: int | None = None, before: tuple = ()):
        self.events: list[dict] = []
        watch = AlarmMonitor(lambda event, **fields: self.events.append({"event": event, **fields}), before)
        watch.on_start(RunRecord(RunConfig(), "0" * 64, Path("r"), first, 4096, 256))
        base, width, groups = rows_of(found["base"]), found["groups_per_step"], groups_of(found)
        watch.on_evaluation(evaluation("base", first, base))
        steps = len(found["rewards"])
        for step in range(first, steps if last is None else last):
            for slot, group in enumerate(groups[step * width : (step + 1) * width]):
                watch.on_group(group_record(step, slot, group))
            watch.on_step(step_record(step + 1, found["rewards"][step]))
            self.events.append({"event": "step", "step": step + 1, "reward_mean": found["rewards"][step]})
            rows = found["measured"].get(str(step + 1))
            if measured and rows is not None:
                watch.on_evaluation(evaluation("final" if step + 1 == 40 else "training", step + 1, rows_of(rows)))

    @property
    def alarms(self) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = {}
        for event in self.events:
            if event["event"] == "alarm":
                found.setdefault(event["metric"], []).append((event["step"], event["size"]))
        return found


def evaluation(label, step, rows):
    return EvaluationRecord(label, step, len(rows), {}, {}, 1.0, rows=rows)


def group_record(step, slot, group):
    scores = {name: tuple(Score(value=value) for value in values) for name, values in group.items()}
    lease = Lease(step, slot, 0, 0, 1, step)
    return GroupRecord(step, lease, "t", GroupScores(lease.group_id, step, {}, 0.1, scores), 0, 1.0)


def step_record(done, reward):
    return StepRecord(done, 40, done, {"reward": reward}, {"reward": 0.1}, 0.0, {0: 12}, 60.0, Counters(), {}, {})


@pytest.mark.parametrize("name", ["my_images", "kontext_1gpu"])
def test_a_run_that_learns_to_copy_is_told_of_by_its_candidates_alone(name):
    alarms = Played(series(name), measured=False).alarms
    assert set(alarms) == {CHANGE}
    (step, share), *again = alarms[CHANGE]
    assert step == 19 and 0.3 < share < 0.35
    assert [size > 1.5 * share for _, size in again] == [True] * len(again)  # and again only when markedly worse


@pytest.mark.parametrize("name", ["my_images", "kontext_1gpu"])
def test_and_earlier_by_held_out_measurements(name):
    played = Played(series(name), measured=True)
    assert {"edit_score", "edit_psnr", "editscore_truth", "edit_accuracy"} <= set(played.alarms)
    assert min(step for metric, told in played.alarms.items() if metric != CHANGE for step, _ in told) == 12
    (told,) = [e for e in played.events if e["event"] == "alarm" and e["metric"] == "edit_accuracy"]
    assert told["sentence"].startswith(f"step {told['step']}: edit_accuracy on the held-out tasks fell by ")
    assert ("while the training reward rose from" in told["sentence"]) == (name == "my_images")  # pooled: always 0


def test_the_quickstart_is_not_told_of():
    played = Played(series("quickstart"), measured=True)
    assert played.alarms == {} and "start_measured" in {event["event"] for event in played.events}


def told(played: Played) -> list[dict]:
    return [event for event in played.events if event["event"] == "alarm"]


@pytest.mark.parametrize("step", [0, 2, 5, 7])
def test_a_resumed_run_is_compared_with_its_own_start(step):
    """Also where it was cut short before it had all of it: the start of a run is its first steps."""
    found = series("my_images")
    before = Played(found, measured=False, last=step + 1)  # one step more than what was saved
    events = (*before.events, {"event": "resumed", "step": step})
    resumed, whole = (Played(found, measured=True, first=first, before=log) for first, log in ((step, events), (0, ())))
    assert told(resumed) == told(whole) and len(told(whole)) > 4
    starts = [event for event in before.events[:-2] + resumed.events if event["event"] == "start_measured"]
    assert starts == [event for event in whole.events if event["event"] == "start_measured"]


def test_a_run_whose_start_nobody_measured_has_none_to_be_compared_with():
    assert told(Played(series("my_images"), measured=False, first=15)) == []


def test_a_resumed_run_repeats_nothing():
    found = series("my_images")
    before = Played(found, measured=False, last=20)
    assert CHANGE in before.alarms
    events = tuple(before.events)
    again = Played(found, measured=False, first=15, before=(*events, {"event": "resumed", "step": 15}))
    # What came after step 15 is undone, so it is told.
    assert told(again)[0]["metric"] == CHANGE and told(again)[0]["step"] == 20
    kept = Played(found, measured=False, first=20, before=(*events, {"event": "resumed", "step": 20}))
    assert all(size > 1.5 * before.alarms[CHANGE][0][1] for _, size in kept.alarms.get(CHANGE, []))


def test_what_was_undone_is_no_notification():
    alarm = {"event": "alarm", "metric": "m", "size": 1.0, "sentence": "s"}
    events = [{**alarm, "step": 4}, {**alarm, "step": 9}, {"event": "resumed", "step": 5}]
    assert notifications(events) == [{"metric": "m", "step": 4, "size": 1.0, "sentence": "s"}]


@pytest.mark.parametrize(("labels", "told"), [(["training"], []), (["training", "training"], [8]), (["final"], [4])])
def test_a_lost_background_is_told_of_after_two_measurements_or_the_last(labels, told):
    events: list[dict] = []
    watch = AlarmMonitor(lambda event, **fields: events.append({"event": event, **fields}), ())
    watch.on_start(RunRecord(RunConfig(), "0" * 64, Path("r"), 0, 4096, 256))
    watch.on_evaluation(evaluation("base", 0, [{"background_psnr": 30.0 + i % 3} for i in range(16)]))
    for step, label in enumerate(labels, start=1):
        watch.on_evaluation(evaluation(label, 4 * step, [{"background_psnr": 20.0 + i % 3} for i in range(16)]))
    assert [event["step"] for event in events if event["metric"] == "background_psnr"] == told


@pytest.mark.fault
@pytest.mark.parametrize("name", ["my_images", "kontext_1gpu"])
def test_the_collapsing_configurations_are_told_of_while_they_run(tmp_path, name):
    config = load_config(
        [
            "--config",
            str(COLLAPSING / f"{name}.yaml"),
            "--folder",
            str(tmp_path),
            "--learner.steps",
            "22",
            "--data.held_out_tasks",
            "48",
            "--report.gallery_tasks",
            "0",
        ]
    )
    watcher = Watcher()
    summary = run(config, observers=[watcher])
    told = {one["metric"]: one for one in summary["notifications"]}
    assert 10 <= told[CHANGE]["step"] <= 22 and "edit_score" in told, told  # it happened, while the run went on
    assert watcher.notices.count(told[CHANGE]["sentence"]) == 1
    assert summary["config_hash"] == config_hash(config)
    faults = audited(tmp_path / name / "events.jsonl").faults
    assert not any(faults.values()), faults


@pytest.mark.fault
def test_the_quickstart_is_silent(tmp_path):
    config = load_config(
        [
            "--folder",
            str(tmp_path),
            "--cluster.mode",
            "inline",
            "--learner.steps",
            "40",
            "--report.evaluate_every",
            "10",
            "--data.held_out_tasks",
            "64",
        ]
    )
    summary = run(config)
    assert summary["notifications"] == [] and summary["verdict"]["outcome"] == "trained"
    events = [e["event"] for e in read_events(tmp_path / "quickstart" / "events.jsonl")]
    assert events.count("start_measured") == 5 and events.count("evaluated") == 5
