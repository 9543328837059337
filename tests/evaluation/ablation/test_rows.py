"""Any rows over seeds, with a runner that writes summaries instead of training."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from configs import exits
from configs.errors import ConfigError
from configs.load import load_config
from evaluation import runs
from evaluation.ablation import rows as ablation
from evaluation.report import as_markdown
from evaluation.statistics import student_interval
from tests.evaluation.ended_runs import DIVERGED, write_events, write_summary

BASE = {
    "edit_score": 0.5,
    "editscore_truth": 0.5,
    "edit_accuracy": 0.5,
    "edit_psnr": 20.0,
    "background_psnr": 26.0,
    "background_ssim": 0.9,
    "edit_delta_e": 9.0,
    "edit_saturation_drift": 0.01,
    "edit_sharpness_drift": 0.0,
    "background_cast_share": 0.2,
    "background_pyramid": 0.01,
}
GAIN = {"rdp": (0.10, 0.12, 0.11), "quickstart": (-0.2, 0.3, 0.1)}


class FakeRunner:
    """Writes what a run would write; `status` by run name for those that fail; `ruined` and `diverged` ones end with 3,
    and `blind` ones are ruined to where no held-out task has an image."""

    def __init__(self, status=None, silent=(), ruined=(), blind=(), diverged=()):
        self.commands: list[list[str]] = []
        self.status, self.silent, self.ruined, self.blind = status or {}, silent, ruined, blind
        self.diverged = diverged

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
        if config.name in self.diverged:
            write_events(config, DIVERGED)
            return exits.UNUSABLE
        gain = dict.fromkeys(BASE, GAIN[config.name.split("-")[0]][config.seed])
        bad = config.name in (*self.ruined, *self.blind)
        write_summary(
            config,
            BASE,
            {} if config.name in self.blind else gain,
            "ruined" if bad else "trained",
            first_step=25 if resumed else 0,
            step_seconds=100.0 + config.seed,
        )
        return exits.UNUSABLE if bad else exits.DONE


def run(tmp_path, *more, runner=None):
    runner = runner or FakeRunner()
    status = ablation.main(
        ["--rows", "rdp", "quickstart", "--seeds", "0", "1", "2", "--out", str(tmp_path), *more], runner
    )
    return status, runner


def test_every_row_runs_under_every_seed_with_the_overrides(tmp_path, capsys):
    status, runner = run(tmp_path, "--learner.steps", "7")
    assert status == 0 and len(runner.commands) == 6
    assert runner.commands[1][1:] == [
        "-m",
        "learner.main",
        "--config",
        "quickstart",
        "--seed",
        "0",
        "--name",
        "quickstart-seed0",
        "--folder",
        str(tmp_path),
        "--learner.steps",
        "7",
    ]
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


def lines_of(tmp_path, start):
    return [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith(start)]


def test_a_row_that_ruins_its_editor_is_a_result_and_marked(tmp_path, capsys):
    status, _ = run(tmp_path, runner=FakeRunner(ruined=("rdp-seed1",)))
    rdp, ours = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert status == 0 and rdp["outcomes"] == ["trained", "ruined", "trained"] and rdp["unusable"] == "ruined 1 of 3"
    assert rdp["metrics"]["edit_score"]["difference"]["count"] == 3 and ours["unusable"] == ""
    assert "ruined 1 of 3" in capsys.readouterr().out
    assert lines_of(tmp_path, "| edit_score | rdp |")[0].endswith(
        "| 3 | 0.5000 | 0.6100 | +0.1100 | +0.0852 … +0.1348 | ▲ ruined 1 of 3 |"
    )
    assert lines_of(tmp_path, "| rdp |") == ["| rdp | 0 1 2 | 101 | ruined 1 of 3 |"]
    assert lines_of(tmp_path, "| quickstart |") == ["| quickstart | 0 1 2 | 101 |  |"]


@pytest.mark.parametrize("how", ["blind", "diverged"])
def test_a_seed_that_measured_nothing_leaves_the_others_of_its_row(tmp_path, how):
    status, runner = run(tmp_path, runner=FakeRunner(**{how: ("rdp-seed1",)}))
    assert status == 0 and len(runner.commands) == 6
    rdp, _ = json.loads((tmp_path / "report.json").read_text())["rows"]
    words = {"blind": "ruined", "diverged": "diverged"}[how]
    assert rdp["seeds"] == [0, 1, 2] and rdp["unusable"] == f"{words} 1 of 3"
    found = rdp["metrics"]["edit_score"]["difference"]
    assert (found["count"], found["mean"]) == (2, pytest.approx((GAIN["rdp"][0] + GAIN["rdp"][2]) / 2))
    assert lines_of(tmp_path, "| edit_score | rdp | 2 of 3 |")[0].endswith(f"{words} 1 of 3 |")


def test_a_row_without_any_measurement_is_in_the_report(tmp_path, capsys):
    names = [f"rdp-seed{seed}" for seed in range(3)]
    status, _ = run(tmp_path, runner=FakeRunner(diverged=names[:2], blind=names[2:]))
    rdp, ours = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert status == 0 and rdp["metrics"] == {} and ours["metrics"]
    said = capsys.readouterr().out
    assert "ruined 1 of 3" in said and "diverged 2 of 3" in said
    # The ruined one knows its time.
    assert lines_of(tmp_path, "| rdp |") == ["| rdp | 0 1 2 | 102 | ruined 1 of 3, diverged 2 of 3 |"]


def test_a_run_that_diverged_is_not_done_again(tmp_path):
    run(tmp_path, runner=FakeRunner(diverged=("rdp-seed1",)))
    report = (tmp_path / "report.md").read_text()
    status, runner = run(tmp_path)
    assert status == 0 and runner.commands == [] and (tmp_path / "report.md").read_text() == report


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


@pytest.mark.parametrize("code", [None, {}, {"sources": "0" * 64}])
def test_a_finished_run_of_other_code_is_refused(tmp_path, capsys, code):
    run(tmp_path, runner=FakeRunner(diverged=("quickstart-seed2",)))
    file = tmp_path / "rdp-seed1" / "summary.json"
    summary = json.loads(file.read_text())
    del summary["code"]
    file.write_text(json.dumps(summary if code is None else {**summary, "code": code}))
    status, runner = run(tmp_path)
    said = capsys.readouterr().out
    assert status == 1 and runner.commands == []
    assert f"{tmp_path / 'rdp-seed1'} holds a run of other code: the code has changed since (sources" in said
    assert "choose another --out or delete that folder" in said


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        (FakeRunner(status={"quickstart-seed0": 3}), "status 3"),
        (FakeRunner(silent=("quickstart-seed0",)), "without a summary.json"),
    ],
)
def test_a_failed_run_stops_the_ablation_with_the_end_of_its_log(tmp_path, capsys, runner, words):
    status, runner = run(tmp_path, runner=runner)
    assert status == 1 and not (tmp_path / "report.json").exists()
    assert len(runner.commands) == 2  # the second one fails
    out = capsys.readouterr().out
    assert words in out and "the reason" in out and "line 99" in out and "line 50" not in out


@pytest.mark.parametrize(
    ("more", "words"), [(("--seed", "4"), "the ablation sets this"), (("--name=x",), "the ablation sets this")]
)
def test_flags_of_the_ablation_itself_are_refused(tmp_path, capsys, more, words):
    status, runner = run(tmp_path, *more)
    assert status == 1 and runner.commands == [] and words in capsys.readouterr().out


def test_wrong_settings_are_found_before_anything_runs(tmp_path, capsys):
    status, runner = run(tmp_path, "--learner.stepps", "4")
    assert status == 1 and runner.commands == []
    assert "did you mean" in capsys.readouterr().out
    with pytest.raises(ConfigError):
        runs.plan(["no_such_preset"], [0], tmp_path, [])


def test_one_seed_gives_means_without_an_interval(tmp_path):
    planned = runs.plan(["rdp"], [0], tmp_path, [])
    rows = ablation.summarise(planned, runs.collect(planned, 1, FakeRunner(), lambda text: None))
    assert rows[0].metrics["edit_score"].difference.low is None
    assert "| – |  |" in as_markdown(rows, [])


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
    assert "the same command continues" in capsys.readouterr().out
