"""The doctor on a real head, with the token and without."""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.manifests import NO_METRICS
from tests.clusters import head as heads
from tests.clusters.head import ADDRESS, run

SHOW = """
import json, sys
from cluster.doctor.__main__ import examine_all
from configs.load import load_config
print(json.dumps([[r.node, f.check, f.level, f.seen, f.fix] for r in examine_all(load_config(sys.argv[1:]))
                  for f in r.findings]))
"""


def findings(folder: Path, **environment: str) -> dict[str, tuple[str, str, str]]:
    flags = ["--folder", str(folder), "--cluster.address", "auto"]
    done = run(sys.executable, "-c", SHOW, *flags, **environment)
    return {check: (level, seen, fix) for _, check, level, seen, fix in json.loads(done.stdout.splitlines()[-1])}


def test_the_shipped_head_is_well(token_head, tmp_path):
    done = run(sys.executable, "-m", "cluster.doctor", "--cluster.address", "auto", "--folder", str(tmp_path))
    assert "0 failures" in done.stdout and "(head)" in done.stdout
    found = findings(tmp_path)
    assert found["dashboard"][0] == "ok" and "(401)" in found["dashboard"][1]
    level, seen, _ = found["ports"]
    assert level == "ok" and seen.startswith("beyond loopback, with the token: ") and "6379 (gcs_server)" in seen
    assert found["token"][0] == "ok" and "only this user" in found["token"][1]


def test_the_doctor_as_a_job(token_head, tmp_path):
    done = run(
        "ray",
        "job",
        "submit",
        "--",
        "python",
        "-m",
        "cluster.doctor",
        "--folder",
        str(tmp_path),
        RAY_ADDRESS=ADDRESS,
        RAY_AUTH_MODE="token",
    )
    assert "dashboard" in done.stdout and "0 failures" in done.stdout


def test_the_doctor_without_the_token_gets_nowhere(token_head, tmp_path):
    done = run(
        sys.executable,
        "-m",
        "cluster.doctor",
        "--cluster.address",
        "127.0.0.1:6379",
        "--folder",
        str(tmp_path),
        check=False,
        HOME=str(tmp_path),
        RAY_AUTH_MODE="disabled",
    )
    assert done.returncode != 0 and "4096 tasks" not in done.stdout


@pytest.fixture
def open_head(token_head):
    """A head on a network, started by one who did not think of the token; the shipped one is there again afterwards."""
    heads.start("disabled")
    yield
    heads.start()


def test_a_head_without_the_token_is_a_failure_with_the_fix(open_head, tmp_path):
    found = findings(tmp_path, RAY_AUTH_MODE="disabled")
    for check, level, words in (
        ("dashboard", "warn", "unauthenticated (status 200)"),
        ("token", "warn", "without auth"),
        ("ports", "fail", "6379 (gcs_server)"),
    ):
        seen = found[check]
        assert seen[0] == level and words in seen[1] and "ray get-auth-token --generate" in seen[2], (check, seen)


@pytest.fixture
def talkative_head(token_head):
    """A head whose metrics anybody may read; the shipped one is there again afterwards."""
    heads.start(metrics=True)
    yield
    heads.start()


def test_metrics_that_anybody_may_read_are_named_with_the_fix(talkative_head, tmp_path):
    level, seen, fix = findings(tmp_path)["ports"]
    assert level == "warn" and seen.startswith("unauthenticated metrics: ")
    assert "44227 (python)" in seen and "gcs_server" not in seen
    assert all(one in fix for one in NO_METRICS)
