"""A head that keeps its state in a Redis: Redis goes and takes the head's server along (F16), or the head goes (F17).

Ray advises against relying on it for training, and no file of ours does. A run must not hang, and must be resumable.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import to_yaml
from learner.audit import audited
from learner.run import run
from learner.state.event_log import read_events
from tests.clusters import head as heads
from tests.clusters.head import environment, wait_for
from tests.learner.tiny_run import tiny_run
from tests.rewards.cache.valkeys import free_port, shared_valkey

ADAPTER = "run/adapter/pytorch_lora_weights.safetensors"
ADDRESS = "127.0.0.1:6379"
PATIENCE = 150.0
"""cluster.group_timeout: a run may take so long to notice that its processes are gone, and a worker to start."""
BOUND = 4 * PATIENCE
"""Seconds within which a run must have ended whose cluster is broken. Ray gives up after 60 s by itself."""
OVER = {
    "learner": {"steps": 60},
    "checkpoint": {"every": 1},
    "data": {"held_out_tasks": 1},
    "report": {"gallery_tasks": 0, "gallery_groups": 0},
}


@pytest.fixture(scope="module")
def whole(tiny_kontext, tmp_path_factory) -> bytes:
    """The adapter of the unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    run(tiny_run(tiny_kontext, folder, "run", OVER))
    return (folder / ADAPTER).read_bytes()


@pytest.fixture
def redis(token_head) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Port and process of a Redis in which a head keeps its state; afterwards the shipped head is there again."""
    port = free_port()
    with shared_valkey(port) as server:
        start(port)
        yield port, server
        heads.clear()
    heads.start()


def start(port: int) -> None:
    heads.start(RAY_REDIS_ADDRESS=f"127.0.0.1:{port}")


def driver(editor: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The run on the head; resumed if there is something."""
    config = folder / "asked.yaml"
    config.write_text(
        to_yaml(
            tiny_run(
                editor,
                folder,
                "run",
                {
                    **OVER,
                    "cluster": {"mode": "ray", "address": ADDRESS, "rollout_workers": 1, "group_timeout": PATIENCE},
                },
            )
        )
    )
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.resume_or_start", "--", "--config", str(config)],
            cwd=heads.ROOT,
            env=environment(RAY_AUTH_MODE="token"),
            stdout=said,
            stderr=said,
        )


def working(editor: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The run, when it has saved two steps."""
    process = driver(editor, folder)
    wait_for(lambda: process.poll() is not None or (folder / "run/checkpoints/step_000002").exists(), "two steps")
    assert process.poll() is None, (folder / "said.txt").read_text()[-4000:]
    return process


def ended(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The exit code; a run that hangs is a broken promise."""
    try:
        return process.wait(BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"the run hangs: {(folder / 'said.txt').read_text()[-4000:]}") from None


def is_whole(folder: Path, whole: bytes) -> None:
    faults = audited(folder / "run/events.jsonl").faults
    assert not any(faults.values()), faults
    assert (folder / ADAPTER).read_bytes() == whole


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event in read_events(folder / "run/events.jsonl") if event["event"] == kind]


def test_a_run_whose_heads_redis_dies_does_not_hang_and_goes_on_on_another_head(redis, whole, tiny_kontext, tmp_path):
    _, server = redis
    process = working(tiny_kontext, tmp_path)
    assert heads.gcs() is not None
    server.kill()
    wait_for(lambda: heads.gcs() is None, "the head's server to go with its Redis")
    assert process.poll() is None or process.returncode != 0  # the run was in the middle of its work then
    code = ended(process, tmp_path)
    assert (code == 0) == (tmp_path / "run/summary.json").exists()
    heads.clear()
    heads.start()
    if code != 0:
        assert ended(driver(tiny_kontext, tmp_path), tmp_path) == 0, (tmp_path / "said.txt").read_text()[-4000:]
        assert events(tmp_path, "resumed")
    is_whole(tmp_path, whole)


def test_a_run_outlives_a_head_server_that_dies_and_comes_back(redis, whole, tiny_kontext, tmp_path):
    process = working(tiny_kontext, tmp_path)
    server = heads.gcs()
    assert server is not None
    command, variables = server.cmdline(), server.environ()
    server.kill()
    wait_for(lambda: heads.gcs() is None, "the head's server to go")
    time.sleep(2.0)
    with (tmp_path / "gcs.txt").open("wb") as said:
        subprocess.Popen(command, env=variables, stdout=said, stderr=said)
    code = ended(process, tmp_path)
    if code != 0:
        assert ended(driver(tiny_kontext, tmp_path), tmp_path) == 0, (tmp_path / "said.txt").read_text()[-4000:]
    is_whole(tmp_path, whole)


def test_a_run_whose_head_dies_goes_on_on_one_that_takes_over_its_state(redis, whole, tiny_kontext, tmp_path):
    port, _ = redis
    process = working(tiny_kontext, tmp_path)
    heads.kill()
    start(port)
    assert ended(process, tmp_path) != 0
    nodes = (
        "import json, ray; ray.init(address='127.0.0.1:6379', logging_level='ERROR'); "
        "print(json.dumps([node['Alive'] for node in ray.nodes()]))"
    )
    found = json.loads(heads.run(sys.executable, "-c", nodes, RAY_AUTH_MODE="token").stdout.splitlines()[-1])
    assert sorted(found) == [False, True]  # the new head knows the old one
    assert ended(driver(tiny_kontext, tmp_path), tmp_path) == 0, (tmp_path / "said.txt").read_text()[-4000:]
    assert events(tmp_path, "resumed")[0]["step"] >= 2
    is_whole(tmp_path, whole)
