"""The search over learning rates and background weights, with a runner that knows where the best lies."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import exits
from configs.load import load_config
from evaluation import tune
from evaluation.controls import constant, noise
from rewards.scorer_api import ScoreInput
from tests.evaluation.ended_runs import DIVERGED, write_events, write_summary

CONTROLS = Path("evaluation/rows")
BEST_LR, BEST_WEIGHT = 1e-3, 1.0


class FakeRunner:
    """A run gains most at BEST_LR and BEST_WEIGHT; `lost` says by learning rate how a run ends badly."""

    def __init__(self, lost=None):
        self.configs, self.lost = [], lost or {}

    def __call__(self, command, log: Path, stop: threading.Event) -> int:
        config = load_config(list(command[3:]))
        self.configs.append(config)
        learner = config.learner
        gain = -abs(math.log(learner.optimizer.lr / BEST_LR))
        if config.algorithm.preservation.background_weight:
            gain -= abs(math.log(config.algorithm.preservation.background_weight / BEST_WEIGHT))
        base = {"editscore_truth": 0.6, "edit_score": 0.6, "background_psnr": 28.0}
        lost = self.lost.get(next((lr for lr in self.lost if math.isclose(lr, learner.optimizer.lr)), 0.0))
        if lost == "diverged":
            write_events(config, DIVERGED)
        elif lost == "blind":
            write_summary(config, base, {}, "ruined")
        elif lost == "ruined":  # of the tasks that are left it makes more than any other
            write_summary(config, base, dict.fromkeys(base, 0.3), "ruined")
        else:
            write_summary(config, base, {**dict.fromkeys(base, 0.0), "editscore_truth": gain})
        return exits.UNUSABLE if lost else exits.DONE


@pytest.fixture
def searched(tmp_path):
    runner = FakeRunner()
    control = str(CONTROLS / "noise_reward.yaml")
    status = tune.main(
        [
            "--rows",
            "rdp",
            "quickstart",
            control,
            "--out",
            str(tmp_path / "runs"),
            "--write",
            str(tmp_path / "rows"),
            "--learner.steps",
            "5",
        ],
        runner,
    )
    assert status == 0
    return runner, tmp_path / "rows"


@pytest.mark.parametrize(("row", "flags"), [("rdp", ["--data.held_out_tasks", "0"]), ("my_images", [])])
def test_rows_without_scenes_to_compare_them_by_are_refused_before_a_run(tmp_path, capsys, row, flags):
    runner = FakeRunner()
    status = tune.main(["--rows", row, "--out", str(tmp_path / "runs"), "--write", str(tmp_path), *flags], runner)
    said = capsys.readouterr().out
    assert status == 1 and not runner.configs and f"{row}: rows are compared by editscore_truth" in said


def test_every_row_has_the_same_budget_on_the_validation_split(searched):
    runner, _ = searched
    rows = [config.name.split("-")[0] for config in runner.configs]
    assert {row: rows.count(row) for row in rows} == {"rdp": 6, "quickstart": 6, "noise_reward": 6}
    assert {config.data.held_out_split for config in runner.configs} == {"validation"}
    assert {config.learner.steps for config in runner.configs} == {5}


@pytest.mark.parametrize("runs", [3, 4, 5])
def test_the_budget_of_a_row_may_be_another(tmp_path, runs):
    flags = ["--out", str(tmp_path / "runs"), "--write", str(tmp_path / "rows"), "--runs", str(runs)]
    runner = FakeRunner()
    assert tune.main(["--rows", "rdp", "quickstart", *flags], runner) == 0
    rows = [config.name.split("-")[0] for config in runner.configs]
    assert {row: rows.count(row) for row in rows} == {"rdp": runs, "quickstart": runs}


def test_a_budget_below_one_run_per_learning_rate_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tune.main(["--rows", "rdp", "--runs", "2", "--out", str(tmp_path)], FakeRunner())
    assert "--runs: expected at least 3, one per learning rate, got 2" in capsys.readouterr().err


def test_the_learning_rate_is_looked_for_beyond_the_border_and_then_between(tmp_path):
    for row, best, tried in (
        ("rdp", 2e-2, [1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3]),
        ("rdp", 1e-4, [1e-3, 2e-3, 4e-3, 5e-4, 2.5e-4, 1.25e-4]),
        ("rdp", 2.2e-3, [1e-3, 2e-3, 4e-3, 2e-3 * 2**0.5, 2e-3 * 2**-0.5, 2e-3 * 2**0.25]),
    ):
        done = []
        while further := tune.next_trials(row, None, done):
            done += [replace(trial, gains={tune.OBJECTIVE: -abs(math.log(trial.lr / best))}) for trial in further]
        assert [trial.lr for trial in done] == pytest.approx(tried)


def test_the_best_settings_become_rows_that_change_nothing_else(searched):
    _, rows = searched
    for row, preset in (
        ("rdp", "rdp"),
        ("quickstart", "quickstart"),
        ("noise_reward", str(CONTROLS / "noise_reward.yaml")),
    ):
        found, before = load_config(["--config", str(rows / f"{row}.yaml")]), load_config(["--config", preset])
        assert found.learner.optimizer.lr == pytest.approx(BEST_LR)
        weight = before.algorithm.preservation.background_weight
        assert found.algorithm.preservation.background_weight == pytest.approx(2 * weight)  # .5 -> 1, 0 stays 0
        optimizer = before.learner.optimizer.model_copy(update={"lr": found.learner.optimizer.lr})
        learner = before.learner.model_copy(update={"optimizer": optimizer})
        method = before.algorithm.model_copy(update={"preservation": found.algorithm.preservation})
        assert found == before.model_copy(update={"learner": learner, "algorithm": method})


def test_the_search_is_written_down(searched):
    _, rows = searched
    report = json.loads((rows / "tuning.json").read_text())["rows"]
    assert {row: len(found["trials"]) for row, found in report.items()} == {
        "rdp": 6,
        "quickstart": 6,
        "noise_reward": 6,
    }
    best = max(report["quickstart"]["trials"], key=lambda trial: trial["gains"]["editscore_truth"])
    assert (best["lr"], best["background_weight"]) == (BEST_LR, BEST_WEIGHT)


def test_rows_of_another_call_stay(searched, tmp_path):
    _, rows = searched
    before = json.loads((rows / "tuning.json").read_text())["rows"]
    arguments = ["--rows", "global", "--out", str(tmp_path / "other"), "--write", str(rows)]
    assert tune.main(arguments, FakeRunner()) == 0
    after = json.loads((rows / "tuning.json").read_text())["rows"]
    assert set(after) == {*before, "global"} and {row: after[row] for row in before} == before
    assert after["global"]["command"][3:] == arguments


@pytest.mark.parametrize("held", ["", '{"rows"', "[]", "{}", '{"rows": [1]}', "\x00"])
def test_a_broken_record_of_earlier_searches_is_told_of_before_a_run_and_kept(tmp_path, capsys, held):
    record = tmp_path / "rows" / "tuning.json"
    record.parent.mkdir()
    record.write_text(held)
    runner = FakeRunner()
    arguments = ["--rows", "rdp", "--out", str(tmp_path / "runs"), "--write", str(record.parent)]
    assert tune.main(arguments, runner) == 1 and not runner.configs
    said = capsys.readouterr().out
    assert f"{record}: expected the searches of earlier calls, got " in said and "--write" in said
    assert record.read_text() == held and list(record.parent.iterdir()) == [record]
    record.rename(tmp_path / "rows" / "tuning.json.broken")
    assert tune.main(arguments, runner) == 0 and list(json.loads(record.read_text())["rows"]) == ["rdp"]


@pytest.mark.parametrize("flag", ["--out", "--write"])
def test_a_folder_that_cannot_be_written_is_told_of_before_a_run(tmp_path, capsys, flag):
    (tmp_path / "file").touch()
    folder, runner = tmp_path / "file" / "rows", FakeRunner()
    given = {"--out": str(tmp_path / "runs"), "--write": str(tmp_path / "rows"), flag: str(folder)}
    assert tune.main(["--rows", "rdp", *(word for pair in given.items() for word in pair)], runner) == 1
    said = capsys.readouterr().out
    assert said == f"{flag}: {folder} cannot be written (Not a directory); name another folder.\n"
    assert not runner.configs


def test_finished_runs_are_not_done_again(tmp_path):
    arguments = ["--rows", "rdp", "--out", str(tmp_path / "runs"), "--write", str(tmp_path / "rows")]
    assert tune.main(arguments, FakeRunner()) == 0
    again = FakeRunner()
    assert tune.main(arguments, again) == 0 and again.configs == []


@pytest.mark.parametrize("how", ["diverged", "ruined", "blind"])
def test_a_run_of_no_use_never_wins_and_ends_nothing(tmp_path, capsys, how):
    runner = FakeRunner({BEST_LR: how, 2 * BEST_LR: how})
    arguments = ["--rows", "rdp", "--out", str(tmp_path / "runs"), "--write", str(tmp_path / "rows")]
    assert tune.main(arguments, runner) == 0 and len(runner.configs) == 6
    trials = json.loads((tmp_path / "rows" / "tuning.json").read_text())["rows"]["rdp"]["trials"]
    assert [trial["outcome"] for trial in trials[:3]] == [how.replace("blind", "ruined")] * 2 + ["trained"]
    lr = load_config(["--config", str(tmp_path / "rows" / "rdp.yaml")]).learner.optimizer.lr
    usable = [trial for trial in trials if trial["outcome"] == "trained"]
    assert lr == max(usable, key=lambda trial: trial["gains"]["editscore_truth"])["lr"]
    assert how.replace("blind", "ruined") in capsys.readouterr().out
    again = FakeRunner()
    assert tune.main(arguments, again) == 0 and again.configs == []


def test_a_row_without_a_usable_run_is_said_and_not_written(tmp_path, capsys):
    bad = dict.fromkeys([lr * 2.0**-n for n in range(6) for lr in tune.LEARNING_RATES], "ruined")
    arguments = ["--rows", "rdp", "quickstart", "--out", str(tmp_path / "runs"), "--write", str(tmp_path / "rows")]
    earlier = tmp_path / "rows" / "quickstart.yaml"
    earlier.parent.mkdir()
    earlier.write_text("kept")
    assert tune.main(arguments, FakeRunner({**bad, BEST_LR: "diverged"})) == exits.UNUSABLE
    said = capsys.readouterr().out
    assert "rdp: no tuned row is written, since no run trained a usable editor" in said and "*" not in said.replace(
        "* = chosen", ""
    )
    assert "(ruined 5 of 6, diverged 1 of 6)" in said and "editor.lora.alpha" in said
    assert said.count("earlier search") == 1 and f"{earlier} is of an earlier search" in said
    assert earlier.read_text() == "kept"
    assert {path.name for path in earlier.parent.iterdir()} == {"quickstart.yaml", "tuning.json"}


def test_a_row_that_learnt_nothing_has_the_gain_that_it_measured():
    trial = tune.Trial("rdp", 1e-3, None, {tune.OBJECTIVE: 0.0}, "nothing_learnt")
    assert trial.objective == 0.0
    assert tune.best_of([replace(trial, gains={tune.OBJECTIVE: -0.1}, outcome="trained"), trial]) is trial


@pytest.mark.parametrize(
    "flags", [["--data.held_out_split", "test"], ["--data.held-out-split=test"], ["--data", "{held_out_split: test}"]]
)
def test_scenes_of_the_tables_are_not_tuned_on(tmp_path, capsys, flags):
    runner = FakeRunner()
    status = tune.main(["--rows", "rdp", "--out", str(tmp_path / "runs"), "--write", str(tmp_path), *flags], runner)
    said = capsys.readouterr().out
    assert status == 1 and not runner.configs
    assert "--data.held_out_split: rows are tuned on the validation split" in said and "Leave the flag out" in said


def test_a_row_that_does_not_exist_is_a_sentence(tmp_path, capsys):
    assert tune.main(["--rows", "rpd", "--out", str(tmp_path)], FakeRunner()) == 1
    assert "rpd" in capsys.readouterr().out


@pytest.mark.parametrize("row", ["noise_reward", "no_reward", "background_only"])
def test_control_rows_are_configurations_that_start(row):
    from configs.edit_signal import check_edit_signal

    check_edit_signal(load_config(["--config", str(CONTROLS / f"{row}.yaml")]))


@pytest.mark.parametrize("row", ["noise_reward", "no_reward"])
def test_control_rows_differ_from_the_tuned_rc_grpo_in_the_reward_alone(row):
    tuned = load_config(["--config", str(CONTROLS / "tuned" / "rc_grpo.yaml")])
    control = load_config(["--config", str(CONTROLS / f"{row}.yaml")])
    assert control.rewards.weights != tuned.rewards.weights
    assert control == tuned.model_copy(update={"name": row, "rewards": control.rewards})


def test_the_background_control_has_no_other_term_and_the_learning_rate_of_the_tuned_rc_grpo():
    tuned = load_config(["--config", str(CONTROLS / "tuned" / "rc_grpo.yaml")])
    control = load_config(["--config", str(CONTROLS / "background_only.yaml")])
    assert control.learner.optimizer.lr == tuned.learner.optimizer.lr and control.algorithm.weight == 0
    terms = control.algorithm.preservation
    assert terms.background_weight == 1 and terms.velocity_weight < 1e-6 and terms.undone_weight == 0


def test_noise_knows_nothing_and_constant_less():
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    images[1] = images[0]
    given = ScoreInput.__new__(ScoreInput)
    object.__setattr__(given, "images", images)
    found = noise(given)
    assert found[0] == found[1] and len(set(found)) == 399
    assert abs(found.mean() - 0.5) < 0.05 and abs(np.corrcoef(found, images.mean((1, 2, 3)))[0, 1]) < 0.15
    assert set(constant(given)) == {0.0}
