"""The ablation, with a runner that writes summaries instead of training."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from configs import exits
from configs.errors import ConfigError
from configs.load import load_config
from evaluation import ablation
from evaluation.report import as_markdown
from evaluation.statistics import student_interval

BASE = {"edit_score": 0.5, "editscore_truth": 0.5, "edit_accuracy": 0.5, "edit_psnr": 20.0, "background_psnr": 26.0,
        "background_ssim": 0.9, "edit_delta_e": 9.0, "edit_saturation_drift": 0.01, "edit_sharpness_drift": 0.0,
        "background_cast_share": 0.2}
GAIN = {"rdp": (0.10, 0.12, 0.11), "quickstart": (-0.2, 0.3, 0.1)}


class FakeRunner:
    """Writes what a run would write; `status` by run name for those that fail; `ruined` ones end with 3."""

    def __init__(
        self, status: dict[str, int] | None = None, silent: tuple[str, ...] = (), ruined: tuple[str, ...] = ()
    ):
        self.commands: list[list[str]] = []
        self.status, self.silent, self.ruined = status or {}, silent, ruined

    def __call__(self, command, log: Path, stop: threading.Event) -> int:
        self.commands.append(list(command))
        arguments = list(command[3:])
        resumed = "--resume" in arguments
        config = load_config([a for a in arguments if a != "--resume"])
        folder = Path(config.folder) / config.name
        assert resumed == (folder / "config.yaml").is_file()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").touch()
        log.write_text("".join(f"line {n}\n" for n in range(100)) + "the reason\n")
        if self.status.get(config.name, 0) or config.name in self.silent:
            return self.status.get(config.name, 0)
        gain = GAIN[config.name.split("-")[0]][config.seed]
        (folder / "summary.json").write_text(json.dumps({
            "config_hash": ablation.config_hash(config), "first_step": 25 if resumed else 0,
            "seconds": {"step": 100.0 + config.seed, "rollout": 60.0}, "base": {"mean": BASE, "standard_error": {}},
            "final": {"mean": {name: value + gain for name, value in BASE.items()}, "standard_error": {}},
            "gain": {"mean": dict.fromkeys(BASE, gain), "standard_error": {}}}))
        return exits.UNUSABLE if config.name in self.ruined else exits.DONE


def run(tmp_path, *more, runner=None):
    runner = runner or FakeRunner()
    status = ablation.main(["--rows", "rdp", "quickstart", "--seeds", "0", "1", "2", "--out", str(tmp_path), *more],
                           runner)
    return status, runner


def test_every_row_runs_under_every_seed_with_the_overrides(tmp_path, capsys):
    status, runner = run(tmp_path, "--learner.steps", "7")
    assert status == 0 and len(runner.commands) == 6
    assert runner.commands[1][1:] == ["-m", "learner.main", "--config", "quickstart", "--seed", "0", "--name",
                                      "quickstart-seed0", "--folder", str(tmp_path), "--learner.steps", "7"]
    assert "edit_score" in capsys.readouterr().out


def test_the_report_holds_paired_differences_and_their_intervals(tmp_path):
    run(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    rdp, ours = report["rows"]
    assert (rdp["name"], ours["name"], rdp["seeds"], rdp["training_seconds"]) == ("rdp", "quickstart", [0, 1, 2], 101)
    for name in ablation.METRICS:
        found, expected = rdp["metrics"][name], student_interval(GAIN["rdp"])
        assert found["base"] == pytest.approx(BASE[name])
        assert found["final"] == pytest.approx(BASE[name] + 0.11)
        assert found["difference"]["low"] == pytest.approx(expected.low)
        assert found["difference"]["high"] == pytest.approx(expected.high)
    assert len(set(rdp["config_hashes"])) == 3 and not set(rdp["config_hashes"]) & set(ours["config_hashes"])


def test_only_an_interval_without_zero_is_marked(tmp_path):
    run(tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    marked = {(cells[2], cells[1]): cells[-2] for line in lines if len(cells := line.split()) > 8}
    rdp = [line for line in lines if line.startswith("| edit_score | rdp |")]
    ours = [line for line in lines if line.startswith("| edit_score | quickstart |")]
    assert len(rdp) == len(ours) == 1 and marked
    assert rdp[0].endswith("| +0.1100 | +0.0852 … +0.1348 | ▲ |")
    assert ours[0].endswith("|  |")


def test_a_row_that_ruins_its_editor_is_a_result(tmp_path):
    status, _ = run(tmp_path, runner=FakeRunner(ruined=("rdp-seed1",)))
    assert status == 0 and len(json.loads((tmp_path / "report.json").read_text())["rows"]) == 2


def test_finished_runs_are_not_done_again(tmp_path):
    run(tmp_path)
    again = run(tmp_path)[1]
    assert again.commands == []
    (tmp_path / "rdp-seed1" / "summary.json").unlink()
    (tmp_path / "rdp-seed1" / "config.yaml").unlink()
    assert [command[8] for command in run(tmp_path)[1].commands] == ["rdp-seed1"]


def test_an_interrupted_run_is_continued(tmp_path):
    run(tmp_path)
    (tmp_path / "rdp-seed1" / "summary.json").unlink()
    (command,) = run(tmp_path)[1].commands
    assert command[-1] == "--resume"
    # Its seconds are those of a part: seeds 0 and 2 remain.
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"][0]["training_seconds"] == 101 and report["rows"][1]["training_seconds"] == 101
    (tmp_path / "rdp-seed0" / "summary.json").unlink()
    run(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["training_seconds"] == 102


def test_a_finished_run_of_another_configuration_is_refused(tmp_path, capsys):
    run(tmp_path)
    status, runner = run(tmp_path, "--learner.steps", "7")
    assert status == 1 and runner.commands == []
    assert "another configuration" in capsys.readouterr().out


@pytest.mark.parametrize(("runner", "words"), [
    (FakeRunner(status={"quickstart-seed0": 3}), "status 3"),
    (FakeRunner(silent=("quickstart-seed0",)), "without a summary.json"),
])
def test_a_failed_run_stops_the_ablation_with_the_end_of_its_log(tmp_path, capsys, runner, words):
    status, runner = run(tmp_path, runner=runner)
    assert status == 1 and not (tmp_path / "report.json").exists()
    assert len(runner.commands) == 2      # the second one fails
    out = capsys.readouterr().out
    assert words in out and "the reason" in out and "line 99" in out and "line 50" not in out


@pytest.mark.parametrize(("more", "words"), [
    (("--seed", "4"), "the ablation sets this"), (("--name=x",), "the ablation sets this")])
def test_flags_of_the_ablation_itself_are_refused(tmp_path, capsys, more, words):
    status, runner = run(tmp_path, *more)
    assert status == 1 and runner.commands == [] and words in capsys.readouterr().out


def test_wrong_settings_are_found_before_anything_runs(tmp_path, capsys):
    status, runner = run(tmp_path, "--learner.stepps", "4")
    assert status == 1 and runner.commands == []
    assert "did you mean" in capsys.readouterr().out
    with pytest.raises(ConfigError):
        ablation.plan(["no_such_preset"], [0], tmp_path, [])


@pytest.mark.parametrize(("rows", "seeds"), [(["rdp", "rdp"], [0]), (["rdp"], [1, 1])])
def test_rows_and_seeds_stand_once(tmp_path, rows, seeds):
    with pytest.raises(ablation.AblationError, match="must stand once"):
        ablation.plan(rows, seeds, tmp_path, [])


def test_one_seed_gives_means_without_an_interval(tmp_path):
    runs = ablation.plan(["rdp"], [0], tmp_path, [])
    rows = ablation.summarise(runs, ablation.collect(runs, 1, FakeRunner(), lambda text: None))
    assert rows[0].metrics["edit_score"].difference.low is None
    assert "| – |  |" in as_markdown(rows, [])


def test_a_real_process_writes_its_output_to_the_log(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('seen'); sys.exit(5)"]
    assert ablation.run_process(command, log, threading.Event()) == 5
    assert log.read_text().splitlines()[-1] == "seen"


def test_a_running_process_is_ended_when_the_ablation_is(tmp_path):
    stop = threading.Event()
    stop.set()
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert ablation.run_process(command, tmp_path / "log", stop) == -signal.SIGTERM


def test_an_interruption_ends_what_runs_and_starts_nothing_more(tmp_path, capsys):
    commands, told, ended = [], [], threading.Event()

    def interrupted(command, log, stop):
        commands.append(command)
        os.kill(os.getpid(), signal.SIGTERM)  # to the process, and so to its main thread, as from outside
        told.append(stop.wait(60))
        log.touch()
        ended.set()
        return 143

    handler = signal.getsignal(signal.SIGTERM)
    status, _ = run(tmp_path, runner=interrupted)
    assert signal.getsignal(signal.SIGTERM) == handler
    # Interrupted while it starts a thread, a pool does not know of it and does not wait; the interpreter does.
    assert ended.wait(60) and status == 130 and len(commands) == 1 and told == [True]
    assert "the same command goes on" in capsys.readouterr().out


def test_a_run_without_images_of_its_worst_tasks_gains_nothing_by_their_absence():
    summary = {"base": {"mean": {"edit_score": 0.5}}, "final": {"mean": {"edit_score": 0.8}},  # of fewer tasks
               "gain": {"mean": {"edit_score": -0.1}}}
    assert ablation.paired_final(summary) == pytest.approx({"edit_score": 0.4})
