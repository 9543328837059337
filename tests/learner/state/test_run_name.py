"""Names of runs that were given none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import RunConfig
from learner.state.run_name import free_name


def begin(config: RunConfig) -> str:
    """The name of a run that leaves something in its folder."""
    with free_name(config) as named:
        (Path(named.folder) / named.name / "events.jsonl").touch()
        return named.name


def test_the_same_command_again_takes_the_next_free_name(tmp_path: Path):
    config = load_config(["--folder", str(tmp_path / "runs")])
    assert [begin(config) for _ in range(3)] == ["quickstart", "quickstart-2", "quickstart-3"]


def test_a_run_that_left_nothing_leaves_its_name_too(tmp_path: Path):
    config = load_config(["--folder", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt), free_name(config):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [] and begin(config) == "quickstart"


def test_starts_at_once_get_a_name_each(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from configs.load import load_config\n"
        "from learner.state.run_name import free_name\n"
        "print('ready', flush=True); sys.stdin.read(1)\n"
        "with free_name(load_config(['--folder', sys.argv[1]])) as config:\n"
        "    print(config.name, flush=True); sys.stdin.read(1)\n"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    streams = [(start.stdin, start.stdout) for start in starts if start.stdin and start.stdout]
    assert [output.readline() for _, output in streams] == ["ready\n"] * 5
    for given, _ in streams:
        os.write(given.fileno(), b".")
    names = sorted(output.readline().strip() for _, output in streams)
    assert names == ["quickstart", *(f"quickstart-{number}" for number in range(2, 6))]
    for start in starts:
        start.communicate(".")
        assert start.returncode == 0


@pytest.mark.parametrize("folder", ["file", "file/below", "link"])
def test_where_no_folder_can_be_made_is_a_sentence(tmp_path: Path, folder: str):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "below")
    config = load_config(["--folder", str(tmp_path / folder)])
    with pytest.raises(ConfigError, match=r"^folder: expected a folder in which runs can be made, got .*--folder$"):
        begin(config)
