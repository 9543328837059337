"""Files in the working folder that are called like packages of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.own_names import PACKAGES, ROOT
from tests.test_import_direction import MAY_IMPORT

COMMANDS = ("learner.main", "learner.infer", "editing.validate", "rewards.score", "cluster.scale")


def started(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (f"{name}.py", command)
        for name, command in zip(PACKAGES, (*COMMANDS, *COMMANDS), strict=False)
        if not command.startswith(name)
    ]
    + [("rewards/__init__.py", "learner.main")],
)
def test_a_file_that_hides_a_package_is_named(tmp_path: Path, file: str, command: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise AssertionError('the user's file was run')\n")
    done = started(tmp_path, command, "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / file} has the name of a package of Locus, ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_called_like_the_package_of_the_command_is_named_by_python_as_readme_says(tmp_path: Path, command: str):
    name = command.partition(".")[0]
    (tmp_path / f"{name}.py").touch()
    done = started(tmp_path, command, "--help")
    words = "__path__ attribute not found on {!r}"
    assert (done.returncode, done.stdout) == (1, "") and words.format(name) in done.stderr
    assert words.format("learner") in (ROOT / "docs/rewards.md").read_text(encoding="utf-8")


def test_folders_of_data_and_other_files_hide_nothing(tmp_path: Path):
    for name in PACKAGES:
        (tmp_path / name).mkdir()
    (tmp_path / "my_rewards.py").touch()
    for command in COMMANDS:
        assert started(tmp_path, command, "--help").returncode == 0


def test_all_packages_are_looked_for():
    assert set(PACKAGES) == set(MAY_IMPORT)
