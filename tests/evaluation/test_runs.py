"""Runs as processes of their own: what came of them is read from their folders."""

import signal
import sys
import threading

import pytest

from configs import exits
from configs.load import load_config
from evaluation import runs
from learner.main import main
from learner.state.provenance import code_fingerprint
from tests.evaluation.ended_runs import DATA, DIVERGED, write_events, write_summary

ROLLED_BACK = ("rolled_back", {"step": 0, "reason": "why"})


@pytest.fixture
def planned(tmp_path):
    """A run, and its configuration."""
    (run,) = runs.plan(["rdp"], [0], tmp_path, [])
    return run, load_config(run.arguments)


@pytest.mark.parametrize(("rows", "seeds"), [(["rdp", "rdp"], [0]), (["rdp"], [1, 1])])
def test_rows_and_seeds_stand_once(tmp_path, rows, seeds):
    with pytest.raises(runs.AblationError, match="expected each value once"):
        runs.plan(rows, seeds, tmp_path, [])


def test_a_real_process_writes_its_output_to_the_log(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('seen'); sys.exit(5)"]
    assert runs.run_process(command, log, threading.Event()) == 5
    assert log.read_text().splitlines()[-1] == "seen"


def test_a_running_process_is_ended_when_the_ablation_is(tmp_path):
    stop = threading.Event()
    stop.set()
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert runs.run_process(command, tmp_path / "log", stop) == -signal.SIGTERM


def test_a_run_that_has_not_come_to_its_end_is_none(planned):
    run, config = planned
    assert runs.read_finished(run) is None
    write_events(config, ("failed", {"error": "Terminated", "reason": ""}))
    assert runs.read_finished(run) is None


def test_a_run_that_diverged_is_known_by_its_event_log(planned):
    run, config = planned
    write_events(config, DIVERGED, ROLLED_BACK)
    assert runs.read_finished(run) is None  # it was to go on
    write_events(config, DIVERGED)
    assert runs.read_finished(run) == runs.Finished("diverged", {}, {}, None, DATA)


def test_a_run_that_was_killed_before_it_went_back_has_not_come_to_its_end(planned):
    run, config = planned
    (run.path / "checkpoints" / "step_000000").mkdir(parents=True)
    write_events(config, DIVERGED)
    assert runs.read_finished(run) is None
    write_events(config, ROLLED_BACK)
    write_events(config, DIVERGED)
    assert runs.read_finished(run).outcome == "diverged"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config_hash": "0" * 64}, "another configuration"),
        (
            {"code": {**code_fingerprint(), "torch": "1.0"}},
            "a run of other code: the code has changed since \\(torch\\)",
        ),
    ],
)
def test_a_run_that_diverged_under_other_code_or_settings_is_refused(planned, change, words):
    run, config = planned
    write_events(config, DIVERGED, **change)
    with pytest.raises(runs.AblationError, match=f"{run.path} holds .*{words}"):
        runs.read_finished(run)


def test_an_event_log_that_holds_something_else_is_a_sentence(planned):
    run, _ = planned
    run.path.mkdir()
    (run.path / "events.jsonl").write_text("[]\n")
    with pytest.raises(runs.AblationError, match="line 1 of the event log"):
        runs.read_finished(run)


def test_runs_of_a_row_on_different_data_are_not_compared(tmp_path):
    planned = runs.plan(["rdp"], [0, 1], tmp_path, [])
    for run, held_out in zip(planned, "ab", strict=True):
        write_summary(load_config(run.arguments), {}, {}, data={**DATA, "held_out": held_out})
    with pytest.raises(runs.AblationError, match=r"rdp-seed0 and .*rdp-seed1 are runs on different data"):
        runs.collect(planned, 1, runs.run_process, lambda text: None)


def test_a_run_without_images_of_its_worst_tasks_gains_nothing_by_their_absence():
    assert runs.Finished("ruined", {"edit_score": 0.5, "edit_psnr": 20.0}, {"edit_score": -0.1}, None, DATA).final == (
        pytest.approx({"edit_score": 0.4})
    )


@pytest.mark.parametrize(("steps", "lr", "outcome"), [("2", "1e30", "diverged"), ("1", "1e10", "ruined")])
def test_real_runs_of_no_use_are_results_and_kept(tiny_kontext, tmp_path, capfd, steps, lr, outcome):
    flags = [
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
        "--learner.steps",
        steps,
        "--editor.path",
        str(tiny_kontext),
        "--data.train_tasks",
        "4",
        "--data.held_out_tasks",
        "2",
        "--learner.optimizer.lr",
        lr,
    ]
    (run,) = runs.plan(["quickstart"], [0], tmp_path, flags)
    statuses = []

    def here(command, log, stop):
        log.touch()
        statuses.append(main(command[3:]))
        return statuses[-1]

    found = runs.execute(run, here, threading.Event())
    assert statuses == [exits.UNUSABLE] and found.outcome == outcome and found.gain == {} == found.final
    assert bool(found.base) == (outcome == "ruined") and set(found.data) == {"train", "held_out"}
    assert runs.read_finished(run) == found
