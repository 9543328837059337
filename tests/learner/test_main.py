"""The command: exit codes, sentences instead of tracebacks, and how to go on after an interruption."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.exits import FAILED, RESUMABLE
from configs.load import config_hash, load_config
from learner.errors import LearnerLost, RunFailed, RunRefused
from learner.main import Terminated, guarded, main


def test_a_wrong_request_is_a_sentence_and_code_2(capsys: pytest.CaptureFixture[str]):
    assert main(["--learner.stepz", "3"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("--learner.stepz: unknown key; did you mean learner.steps?")
    assert "--help" in printed.err and printed.out == ""


def test_dry_run_prints_what_would_run_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--dry-run", "--folder", str(tmp_path), "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    config = load_config(["--folder", str(tmp_path), "--seed", "4"])
    assert yaml.safe_load(printed) == config.model_dump(mode="json") and config_hash(config) in printed
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_need_the_heavy_libraries():
    code = (
        "import sys, learner.main; learner.main.main(['--help']); learner.main.main(['--dry-run']); "
        "print([m for m in ('torch', 'ray', 'diffusers') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]" and "--learner.optimizer.lr" in printed


@pytest.mark.parametrize(
    ("flags", "name"), [([], "quickstart-2"), (["--name", "quickstart"], "quickstart"), (["--resume"], "quickstart")]
)
def test_a_given_name_and_a_resume_mean_exactly_that_run(tmp_path: Path, monkeypatch, flags, name):
    asked = []
    monkeypatch.setattr(
        "learner.main.train_and_report", lambda config, asks, _: asked.append((config.name, asks.resume)) or 0
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    (tmp_path / "quickstart").mkdir()
    assert main(["--folder", str(tmp_path), *flags]) == 0
    assert asked == [(name, "--resume" in flags)]


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = load_config(["--folder", str(tmp_path), "--name", "r"])
    assert guarded(config, raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nStopped. There was no checkpoint yet.\n"
    (tmp_path / "r" / "checkpoints" / "step_000025").mkdir(parents=True)
    assert guarded(config, raising(Terminated())) == 143
    assert f"python -m learner.main --config {tmp_path}/r/config.yaml --resume" in capsys.readouterr().err


def test_our_errors_are_sentences_and_others_keep_their_traceback(capsys: pytest.CaptureFixture[str]):
    config = load_config([])
    assert guarded(config, raising(RunFailed("no groups arrive"))) == 1
    assert "no groups arrive" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="torch broke"):
        guarded(config, raising(RuntimeError("torch broke")))
    assert guarded(config, raising(ModuleNotFoundError("ray", name="ray"))) == 1
    assert "--cluster.mode inline" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        guarded(config, raising(ModuleNotFoundError("yaml", name="yaml")))
    assert guarded(config, lambda: 0) == 0


def test_what_was_lost_has_an_exit_code_of_its_own_and_says_how_to_go_on(tmp_path: Path, capsys):
    config = load_config(["--folder", str(tmp_path), "--name", "r"])
    (tmp_path / "r" / "checkpoints" / "step_000025").mkdir(parents=True)
    assert guarded(config, raising(LearnerLost("the learner died"))) == RESUMABLE
    assert capsys.readouterr().err == (
        f"\nthe learner died\nContinue from the last checkpoint with: python -m learner.main --config "
        f"{tmp_path}/r/config.yaml --resume\n"
    )


def test_a_refusal_does_not_repeat_the_refused_command(tmp_path: Path, capsys):
    config = load_config(["--folder", str(tmp_path), "--name", "r"])
    (tmp_path / "r" / "checkpoints" / "step_000025").mkdir(parents=True)
    assert guarded(config, raising(RunRefused("it was another run"))) == FAILED
    assert capsys.readouterr().err == "\nit was another run\n"


def test_what_ray_itself_raises_keeps_its_traceback_and_means_the_same(capsys):
    from ray.exceptions import RaySystemError, RayTaskError

    assert guarded(load_config([]), raising(RaySystemError("broken pipe"))) == RESUMABLE
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(RayTaskError):
        guarded(load_config([]), raising(RayTaskError("f", "traceback", KeyError("a fault of ours"))))
