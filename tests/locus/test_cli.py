"""`locus COMMAND` becomes `python -m MODULE`; what is no command is told."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

from locus import cli
from locus.commands import COMMANDS
from locus.version import __version__
from tests.test_import_direction import MAY_IMPORT

ROOT = Path(__file__).parents[2]
NOT_TYPED = {
    "configs.own_names",  # run by the packages with commands
    "editing.first_task",  # by the doctor, on every machine
    "evaluation.gpu_checks",  # from a checkout, by who develops on a GPU
    "evaluation.speed.null_judge",  # by evaluation.speed
    "locus",
    "rewards.cache.guard",  # by runs, beside their servers
    "rewards.vllm.guard",
    "rewards.vllm.inside.locus_torchvision_ops",  # by make judge
}


def ran(*words: str, cwd: Path = ROOT, module: str = "locus") -> subprocess.CompletedProcess[str]:
    """A command of this checkout, started in a folder."""
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_becomes_its_module(name, monkeypatch):
    became = []
    monkeypatch.setattr(os, "execv", lambda file, words: became.append((file, words)) or sys.exit())
    with pytest.raises(SystemExit):
        cli.main([name, "--a flag", "--help"])
    module = COMMANDS[name].module
    assert became == [(sys.executable, [sys.executable, "-m", module, "--a flag", "--help"])]
    assert importlib.util.find_spec(module) is not None


def test_every_module_that_is_run_is_a_command_or_is_run_by_another():
    guarded = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
        if re.search(r'^if __name__ == "__main__"', path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    typed = [command.module for command in COMMANDS.values()]
    assert len(set(typed)) == len(typed) and set(typed).isdisjoint(NOT_TYPED)
    assert guarded == {*typed, *NOT_TYPED}


@pytest.mark.parametrize("words", [["train", "--stps", "1"], ["scale", "none", "--rollout-workers", "1"], ["photos"]])
def test_a_command_says_and_returns_what_its_module_does(tmp_path, words):
    one = ran(*words, cwd=tmp_path)
    other = ran(*words[1:], cwd=tmp_path, module=COMMANDS[words[0]].module)
    assert one.returncode == other.returncode != 0
    assert (one.stdout, one.stderr) == (other.stdout, other.stderr) and one.stdout + one.stderr


@pytest.mark.parametrize("name", ["train", "scale", "completion"])
def test_help_is_the_module_s(name):
    done = ran(name, "--help")
    module = COMMANDS[name].module
    assert done.returncode == 0 and (f"python -m {module}" in done.stdout or f"locus {name}" in done.stdout)


def test_a_file_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "configs.py").write_text("raise AssertionError('the user's file was run')\n")
    for words in ([], ["train"]):
        done = ran(*words, "--help", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{tmp_path / 'configs.py'} has the name of a package of Locus, 'configs',")


PROBE = "import json, os, signal, sys; print(json.dumps([os.getpid(), sys.argv[1:], sys.path]), flush=True); ENDS"


@pytest.mark.parametrize(
    ("ends", "code"), [("sys.exit(75)", 75), ("os.kill(os.getpid(), signal.SIGTERM)", -15), ("", 0)]
)
def test_the_command_has_the_process_the_folders_and_the_end_of_python_m(tmp_path, ends, code):
    """Also where it is started as the installed script, whose own folder Python looks into first."""
    (tmp_path / "probe.py").write_text(PROBE.replace("ENDS", ends))
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "script.py"
    script.write_text(
        "import sys\nfrom locus import cli\nfrom locus.commands import Command\n"
        "cli.COMMANDS['probe'] = Command('probe', '')\nsys.exit(cli.main())\n"
    )
    said = []
    for start in ([str(script), "probe"], ["-m", "probe"]):
        process = subprocess.Popen(
            [sys.executable, *start, "--flag", "a b"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        pid, arguments, folders = json.loads(process.communicate()[0])
        assert pid == process.pid and process.returncode == code
        said.append((arguments, folders))
    assert said[0] == said[1] and said[0][1][0] == str(tmp_path)


def test_a_scorer_in_the_working_folder_is_found(tmp_path):
    (tmp_path / "my_scorers.py").write_text("def one(given):\n    return [1.0] * len(given.images)\n")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    words = ["--source", "a.png", "--edited", "b.png", "--instruction", "x", "--json"]
    own = ["--rewards.scorers", "{one: 'my_scorers:one'}", "--rewards.weights", "{one: 1}"]
    done = ran("score", *words, *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["edited"][0]["scores"]["one"]["value"] == 1.0


def test_help_lists_every_command_with_a_line():
    done = ran("--help")
    assert (done.returncode, done.stderr) == (0, "") and max(map(len, done.stdout.splitlines())) <= 100
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.does)}$", done.stdout, re.MULTILINE)
    bare = ran()
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", done.stdout)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("--hepl", "commands are train, infer"), ("completions", "mean completion?")],
)
def test_an_unknown_command_is_told_with_the_nearest(capsys, word, hint, monkeypatch):
    monkeypatch.setattr("configs.output.protect_output", lambda: None)  # pytest's own streams stay
    assert cli.main([word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"locus {word}: unknown command; ") and hint in err


def test_the_version_is_said_and_that_of_the_package():
    import locus

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert ran("--version").stdout == f"locus {__version__}\n" and locus.__version__ == __version__
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "locus.version.__version__"}
    # A literal: setuptools reads it without importing anything.
    assert f'\n__version__ = "{__version__}"\n' in (ROOT / "locus" / "version.py").read_text(encoding="utf-8")


def test_the_console_script_is_the_function():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert EntryPoint("locus", scripts["locus"], "console_scripts").load() is cli.main


def test_nothing_is_imported_that_is_not_asked_for():
    code = (
        "import sys; from locus import cli; before = set(sys.modules)\n"
        "try: cli.main(['--help'])\nfinally: print(sorted(before), sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before, after = said.splitlines()[-1].split("] [")
    ours = {package for package in MAY_IMPORT if f"'{package}" in before}
    assert ours == {"locus"} and not any(f"'{name}'" in before for name in ("pydantic", "rich", "structlog", "numpy"))
    assert not any(f"'{name}'" in after for name in ("torch", "ray", "numpy", "pydantic", "diffusers"))


def test_a_reader_that_ends_early_is_no_error():
    done = subprocess.run(
        ["bash", "-c", '"$0" -m locus --help | true; echo "${PIPESTATUS[0]}"', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
