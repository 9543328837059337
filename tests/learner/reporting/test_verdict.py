"""When a run that came to its end is of no use (F36): pure rules, and real runs in one process."""

import json
import math

import pytest

from configs import exits
from editing.task import NOT_FINITE
from learner.audit import audited
from learner.main import main
from learner.reporting.verdict import Verdict, judged, skipped_steps
from learner.state.event_log import read_events

BASE = {"background_psnr": 28.0, "edit_score": 0.6}
NO_ERROR = dict.fromkeys(BASE, 0.01)
SHORT = [
    "--cluster.mode",
    "inline",
    "--learner.groups_per_step",
    "2",
    "--sampler.group_size",
    "3",
    "--algorithm.anchors",
    "1",
    "--report.gallery_tasks",
    "0",
    "--report.gallery_groups",
    "0",
    "--name",
    "r",
    "--learner.steps",
]


def verdict(steps=40, skipped=0, change=0.05, tasks=256, gain=None, error=None, not_finite=0) -> Verdict:
    gain = {"background_psnr": 0.5, "edit_score": 0.01} if gain is None else gain
    return judged(
        steps, skipped, change, dict.fromkeys(gain, tasks), BASE, gain, NO_ERROR if error is None else error, not_finite
    )


def test_a_run_that_gained_or_lost_a_little_is_trained():
    assert verdict() == Verdict("trained")
    assert verdict(skipped=20) == Verdict("trained")
    # What README's row rdp pays for its edits.
    assert verdict(gain={"background_psnr": -1.48, "edit_score": 0.07}).outcome == "trained"
    assert verdict(gain={}, error={}).outcome == "trained"  # nothing was held out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"skipped": 21}, "21 of 40 steps were skipped"),
        ({"change": 0.0}, "it alters no weight"),
        ({"change": 3e-30}, "no weight matrix by more than 3.0e-30 of its size"),
        ({"gain": dict.fromkeys(BASE, 0.0), "error": dict.fromkeys(BASE, 0.0)}, "what the base makes of it"),
    ],
)
def test_a_run_that_learnt_nothing(given, reason):
    found = verdict(**given)
    assert found.outcome == "nothing_learnt" and reason in found.reasons[0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"gain": {"background_psnr": -19.1, "edit_score": 0.2}}, "background_psnr fell from 28 to 8.9 dB"),
        ({"gain": {"background_psnr": 1.0, "edit_score": -0.4}}, "edit_score fell from 0.6 to 0.2 on"),
        ({"change": 30.0}, "30 times its own size"),
        ({"change": math.inf}, "inf times"),
        ({"change": math.nan}, "nan times"),
    ],
)
def test_a_run_that_ruined_its_editor(given, reason):
    found = verdict(**given)
    assert found.outcome == "ruined" and len(found.reasons) == 1 and reason in found.reasons[0]


@pytest.mark.parametrize(
    "given",
    [
        {"gain": {}, "error": {}},
        {"gain": {"background_psnr": 2.0, "edit_score": 0.3}},
        {"skipped": 21},
        {"gain": dict.fromkeys(BASE, 0.0), "error": dict.fromkeys(BASE, 0.0)},
    ],
)
def test_an_editor_that_makes_no_image_of_a_task_is_ruined_whatever_else_it_does(given):
    assert verdict(**given, not_finite=120) == Verdict(
        "ruined", ("of 120 held-out tasks only the base makes an image",)
    )


def test_an_editor_that_copies_its_source_is_ruined_where_no_truth_says_more():
    def outcome(change, **more):
        gain = {"edit_change": change, "background_psnr": 2.0, **more}
        tasks = {**dict.fromkeys(gain, 256), "edit_psnr": 7}
        base = {"edit_change": 0.2, "edit_psnr": 20.0, **BASE}
        return judged(40, 0, 0.05, tasks, base, gain, dict.fromkeys(gain, 0.005))

    assert outcome(-0.12, edit_psnr=-9.0).reasons == outcome(-0.12).reasons  # seven targets say nothing
    assert outcome(0.1, edit_psnr=-9.0).outcome == "trained"
    assert outcome(-0.12).outcome == "ruined" and "copies its source" in outcome(-0.12).reasons[0]
    assert outcome(-0.12, edit_score=0.1).outcome == outcome(-0.095).outcome == outcome(0.1).outcome == "trained"


@pytest.mark.parametrize(
    ("truth", "gain", "tasks", "outcome"),
    [
        ("edit_psnr", -1.5, 100, "ruined"),
        ("edit_psnr", 1.5, 100, "ruined"),
        ("edit_psnr", -1.5, 8, "ruined"),
        ("edit_score", 0.05, 8, "ruined"),
        ("edit_score", 0.05, 99, "ruined"),
        ("edit_score", 0.05, 100, "trained"),
        ("editscore_truth", 0.05, 100, "trained"),
        ("edit_accuracy", 0.05, 100, "trained"),
    ],
)
def test_only_a_metric_that_knows_the_asked_outcome_of_every_task_says_more(truth, gain, tasks, outcome):
    """A target is one right image of many: a copy of the source may be as near to it as a real edit."""
    base = {"edit_change": 0.25, "background_psnr": 28.0, truth: 12.0 if truth == "edit_psnr" else 0.6}
    gains = {"edit_change": -0.245, "background_psnr": 12.0, truth: gain}
    found = judged(
        100,
        0,
        0.01,
        {**dict.fromkeys(base, 100), truth: tasks},
        base,
        gains,
        {"edit_change": 0.005, "background_psnr": 0.2, truth: 0.2},
    )
    assert found.outcome == outcome
    assert found.reasons == (
        () if outcome == "trained" else ("edit_change fell from 0.25 to 0.005: the editor copies its source",)
    )


def test_a_loss_that_is_not_clear_of_its_interval_ruins_nothing():
    lost = {"background_psnr": -3.5, "edit_score": -0.2}
    assert verdict(gain=lost, error={"background_psnr": 0.3, "edit_score": 0.05}).outcome == "trained"
    assert verdict(gain=lost, error={}).outcome == verdict(gain=lost, tasks=7).outcome == "trained"
    assert len(verdict(gain=lost, error={"background_psnr": 0.2, "edit_score": 0.02}).reasons) == 2


def test_what_was_undone_was_not_skipped():
    events = [{"event": "step_skipped", "step": step} for step in (1, 2, 5, 6)]
    assert skipped_steps(events) == 4
    assert skipped_steps([*events, {"event": "resumed", "step": 4}]) == 2
    assert skipped_steps([*events, {"event": "rolled_back", "step": 0}, events[0]]) == 1


@pytest.mark.parametrize(
    ("flags", "outcome", "reason"),
    [
        (["--editor.lora.alpha", "1e30"], "nothing_learnt", "1 of 1 steps were skipped"),
        (["--learner.optimizer.lr", "1e-30"], "nothing_learnt", "below the rounding of float32"),
        (["--learner.optimizer.lr", "1e3"], "ruined", "times its own size"),
        (["--learner.optimizer.lr", "1e10"], "ruined", "of 2 held-out tasks only the base makes an image"),
    ],
)
def test_a_run_of_no_use_has_an_exit_code_of_its_own(tiny_kontext, tmp_path, capfd, flags, outcome, reason):
    code = main(
        [
            *SHORT,
            "1",
            "--folder",
            str(tmp_path),
            "--editor.path",
            str(tiny_kontext),
            "--data.train_tasks",
            "4",
            "--data.held_out_tasks",
            "2",
            *flags,
        ]
    )
    said, summary = capfd.readouterr().out, json.loads((tmp_path / "r" / "summary.json").read_text())
    assert code == exits.UNUSABLE == 3
    assert summary["verdict"]["outcome"] == outcome and reason in " ".join(summary["verdict"]["reasons"])
    assert "This run " in said and "use it" not in said
    faults = audited(tmp_path / "r" / "events.jsonl").faults
    assert not any(faults.values()), faults


def test_latents_that_are_not_finite_are_no_fault_of_a_task(tiny_kontext, tmp_path, capfd):
    code = main(
        [
            *SHORT,
            "2",
            "--folder",
            str(tmp_path),
            "--editor.path",
            str(tiny_kontext),
            "--data.train_tasks",
            "4",
            "--data.held_out_tasks",
            "0",
            "--learner.optimizer.lr",
            "1e30",
        ]
    )
    said, events = capfd.readouterr().err, list(read_events(tmp_path / "r" / "events.jsonl"))
    # It happened, and once more after the run had gone back.
    assert sum(e["event"] == "requeued" and NOT_FINITE in e["reason"] for e in events) == 12
    assert [e["step"] for e in events if e["event"] == "rolled_back"] == [0]
    assert code == exits.UNUSABLE and "lower learner.optimizer.lr or editor.lora.alpha" in said
    assert "Policy version 1 makes latents or pixels that are not finite" in said
    assert "not the task but the weights" in said
    assert "--resume" not in said
    faults = audited(tmp_path / "r" / "events.jsonl").faults
    assert not any(faults.values()), faults
