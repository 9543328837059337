"""A judge server without a model, see stand_in.py."""

import sys
import time
from pathlib import Path

import pytest

from configs.judges import ServeConfig
from rewards.vllm import guard

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def stand_in(tmp_path):
    """`make(behaviour, **serve settings)`: the settings of a server whose interpreter is the stand-in."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(STAND_IN)!r}, run_name='__main__')\n")
    python.chmod(0o755)

    def make(behaviour="good", **settings):
        return ServeConfig(
            **{
                "replicas": 1,
                "path": str(tmp_path),
                "python": str(python),
                "gpus": 0,
                "start_timeout": 60,
                "arguments": (
                    f"--behaviour={behaviour}",
                    f"--pids={tmp_path / 'pids'}",
                    f"--log={tmp_path / 'requests.jsonl'}",
                ),
                **settings,
            }
        )

    yield make
    for log in tmp_path.rglob("*.log"):  # a failed test must not leave processes either
        assert guard.end_writers(log)


def tree_pids(path, limit=60.0):
    """The server, its engine and its worker, once they are there."""
    deadline = time.monotonic() + limit
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
    return [int(word) for word in path.read_text().split()]


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pids, seconds=30.0):
    """Whether all of them end in time."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
