"""metrics.jsonl says every step once, survives a full disk, and trackers get the same numbers."""

import dataclasses
import errno
import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from configs.load import load_config
from learner.reporting.metrics import MetricsLog, TrackerError, check_tracker, evaluation_metrics, step_metrics
from learner.reporting.records import Counters, EvaluationRecord, RunRecord, StepRecord


def step(done: int, reward: float = 0.5) -> StepRecord:
    return StepRecord(
        done,
        10,
        done,
        {"edit_score": reward},
        {"edit_score": 0.1},
        0.25,
        {0: 10, 2: 2},
        75.0,
        Counters(13, 12, 0, 0, 1, replayed=1),
        {"rollout": 1.5, "step": 2.0},
        {"loss": 0.1},
    )


FINAL = EvaluationRecord("final", 10, 256, {"edit_psnr": 19.0}, {"edit_psnr": 0.2}, 3.0)


def start(folder: Path, *flags: str, first_step: int = 0) -> RunRecord:
    return RunRecord(load_config(flags), "c" * 64, folder, first_step, 4096, 256)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_names_have_fixed_prefixes():
    metrics = {**step_metrics(step(1)), **evaluation_metrics(FINAL)}
    assert {name.split("/")[0] for name in metrics} == {"reward", "rollout", "learner", "sync", "system", "evaluation"}
    assert metrics["rollout/staleness_max"] == 2 and metrics["reward/edit_score_std"] == 0.1
    assert metrics["rollout/leased"] == 13 and metrics["rollout/replayed"] == 1
    assert metrics["system/seconds_step"] == 2.0 and metrics["evaluation/edit_psnr_se"] == 0.2


def test_each_happening_is_one_line(tmp_path: Path):
    log = MetricsLog()
    log.on_start(start(tmp_path))
    log.on_step(step(1))
    log.on_evaluation(FINAL)
    log.on_end({})
    assert lines(tmp_path) == [
        {"kind": "step", "step": 1, **step_metrics(step(1))},
        {"kind": "final", "step": 10, **evaluation_metrics(FINAL)},
    ]


def test_after_a_resume_every_step_stands_once(tmp_path: Path):
    log = MetricsLog()
    log.on_start(start(tmp_path))
    log.on_evaluation(dataclasses.replace(FINAL, label="base", step=0))
    for done in (1, 2, 3):
        log.on_step(step(done, reward=0.1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # cut off by a crash
    log = MetricsLog()
    log.on_start(start(tmp_path, first_step=2))
    log.on_step(step(3, reward=0.9))
    assert [(line["step"], line["reward/edit_score"]) for line in lines(tmp_path)] == [(1, 0.1), (2, 0.1), (3, 0.9)]
    log = MetricsLog()
    log.on_start(start(tmp_path))
    assert lines(tmp_path) == []


def test_a_full_disk_does_not_stop_training_and_costs_no_line(tmp_path: Path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog()
    log._path = tmp_path / "metrics.jsonl"
    with structlog.testing.capture_logs() as said:
        log.on_step(step(1))
        log.on_step(step(2))
    assert [line["event"] for line in said] == ["metrics_not_written"]
    (tmp_path / "metrics.jsonl").unlink()
    log.on_step(step(3))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Files grow to this size and no further; Python itself ignores the signal that comes with the error."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_line_of_which_the_disk_took_a_part_is_finished_later(tmp_path: Path):
    log = MetricsLog()
    log.on_start(start(tmp_path))
    with full_after(100):  # what is said about it may be on the same disk
        log.on_step(step(1))
    assert len((tmp_path / "metrics.jsonl").read_bytes()) == 100
    log.on_step(step(2))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_resume_on_a_full_disk_goes_on(tmp_path: Path, monkeypatch):
    log = MetricsLog()
    log.on_start(start(tmp_path))
    log.on_step(step(1))
    monkeypatch.setattr("learner.reporting.metrics.write_whole", refused)
    log = MetricsLog()
    log.on_start(start(tmp_path, first_step=1))
    log.on_step(step(2))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def refused(*arguments: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_reach_the_run_through_tensorboard(tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    log = MetricsLog()
    log.on_start(start(tmp_path, "--report.tracker", "tensorboard"))
    log.on_step(step(1, 0.1))
    with monkeypatch.context() as full, structlog.testing.capture_logs() as said:
        full.setattr(RecordWriter, "flush", refused)
        log.on_step(step(2, 0.2))
        log.on_step(step(3, 0.3))
    assert [line["event"] for line in said] == ["tensorboard_not_written"]
    log.on_step(step(4, 0.4))
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    seen = rewards_of(tmp_path / "tensorboard")
    assert seen[1] == pytest.approx(0.1) and seen[4] == pytest.approx(0.4)


def rewards_of(folder: Path) -> dict[int, float]:
    """The reward by step, from all event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in folder.iterdir():
        events = EventAccumulator(str(path)).Reload()
        if "reward/edit_score" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("reward/edit_score")}
    return found


def test_a_run_that_goes_back_starts_again_in_the_same_process(tmp_path: Path):
    log = MetricsLog()
    log.on_start(start(tmp_path, "--report.tracker", "tensorboard"))
    for done in (1, 2, 3):
        log.on_step(step(done, reward=0.1))
    before = log._tracker
    log.on_start(start(tmp_path, "--report.tracker", "tensorboard", first_step=1))
    assert before is not None and before._writer is None  # closed
    log.on_step(step(2, reward=0.9))
    log.close()
    assert [(line["step"], line["reward/edit_score"]) for line in lines(tmp_path)] == [(1, 0.1), (2, 0.9)]


def test_tensorboard_gets_the_numbers(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog()
    log.on_start(start(tmp_path, "--report.tracker", "tensorboard"))
    log.on_step(step(1, 0.25))
    log.on_step(step(2, 0.5))
    log.on_end({})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/edit_score")] == [(1, 0.25), (2, 0.5)]
    assert set(events.Tags()["scalars"]) == set(step_metrics(step(1)))


def test_a_missing_tracker_is_a_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrackerError, match=r"tensorboard is not installed; type: python -m pip install"):
        check_tracker("tensorboard")


def test_judges_invalid_candidates_and_silent_components_have_names():
    record = dataclasses.replace(
        step(1),
        judge={"editscore_p50_seconds": 2.5, "cache_hits": 7.0},
        invalid={"editscore_bad_response": 3},
        silent=("acd",),
        floored={"qwen_vl": 2},
    )
    found = step_metrics(record)
    assert found["judge/editscore_p50_seconds"] == 2.5 and found["judge/cache_hits"] == 7
    assert found["reward/invalid/editscore_bad_response"] == 3 and found["reward/silent/acd"] == 1
    assert found["reward/floored/qwen_vl"] == 2
    prefixes = {name.rpartition("/")[0] for name in step_metrics(step(1))}
    assert not {"judge", "reward/invalid", "reward/silent"} & prefixes
