"""The completion scripts, as far as the shells are there."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.layers import preset_names
from configs.load import SWITCHES
from configs.tree import find_field
from locus.commands import COMMANDS
from locus.completion import SHELLS, flags, main

ROOT = Path(__file__).parents[2]


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    typed = " ".join(map(shlex.quote, words))
    code = (
        'set -u; source /dev/stdin <<< "$1"; COMP_WORDS=(' + typed + f"); COMP_CWORD={len(words) - 1}; "
        '_locus; complete -p locus >&2; printf "%s\\n" ${COMPREPLY[@]+"${COMPREPLY[@]}"}'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", SHELLS["bash"]()], capture_output=True, text=True, check=True
    )
    assert done.stderr == "complete -o default -F _locus locus\n"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["locus", ""], [*COMMANDS, "--help", "--version"]),
        (["locus", "tr"], ["train"]),
        (["locus", "s"], [name for name in COMMANDS if name.startswith("s")]),
        (["locus", "train", "--config", ""], preset_names()),
        (["locus", "train", "--config", "kontext"], [name for name in preset_names() if name.startswith("kontext")]),
        (["locus", "train", "--learner.optimizer.l"], ["--learner.optimizer.lr"]),
        (["locus", "train", "--"], flags()),
        (["locus", "supervise", "--", "--config", "quick"], ["quickstart"]),
        (["locus", "train", "runs/"], []),  # then bash offers files
        (["locus", "validate", "--"], []),
        (["locus", "completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bash_completes_commands_keys_and_presets(words, offered):
    assert completed(*words) == list(offered)


def test_every_key_that_is_completed_is_one():
    keys = [flag.removeprefix("--") for flag in flags() if "." in flag]
    assert len(keys) > 100 and all(find_field(key.split("."))[0] is not None for key in keys)
    assert {f"--{name}" for name in (*SWITCHES, "config", "seed")} <= set(flags())
    assert len(set(flags())) == len(flags())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell, tmp_path, capsys):
    assert main([shell]) == 0
    script = capsys.readouterr().out
    assert "@" not in script.replace('"$@"', "").replace("[@]", "")  # nothing of the template is left
    for word in (*COMMANDS, *preset_names(), "learner.optimizer.lr"):
        assert word in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_another_shell_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tcsh"])
    assert ended.value.code == 2 and "fish" in capsys.readouterr().err


def test_the_script_is_printed_without_what_takes_time():
    code = "import sys; from locus.completion import main; main(['bash']); print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("}\nset()\n") or done.stdout.endswith("locus\nset()\n")
