"""The doctor on a real head, with the token and without."""

import json
import sys
from pathlib import Path

import pytest

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
    assert found["ports"][:2] == ("ok", "Ray listens on loopback only")
    assert found["token"][0] == "ok" and "ours alone" in found["token"][1]


def test_the_doctor_as_a_job(token_head, tmp_path):
    done = run("ray", "job", "submit", "--", "python", "-m", "cluster.doctor", "--folder", str(tmp_path),
               RAY_ADDRESS=ADDRESS, RAY_AUTH_MODE="token")
    assert "dashboard" in done.stdout and "0 failures" in done.stdout


def test_the_doctor_without_the_token_gets_nowhere(token_head, tmp_path):
    done = run(sys.executable, "-m", "cluster.doctor", "--cluster.address", "127.0.0.1:6379", "--folder", str(tmp_path),
               check=False, HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
    assert done.returncode != 0 and "4096 tasks" not in done.stdout


ELSEWHERE = "192.0.2.77"
"""An address that is not loopback (RFC 5737)."""


@pytest.fixture
def open_head(token_head):
    """A head on a network, started by one who did not think of the token; the shipped one is there again afterwards."""
    run("ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo")
    heads.start("disabled", on=f"--node-ip-address={ELSEWHERE}")
    yield
    heads.start()
    run("ip", "address", "delete", f"{ELSEWHERE}/32", "dev", "lo")


def test_a_head_without_the_token_is_a_failure_with_the_fix(open_head, tmp_path):
    found = findings(tmp_path, RAY_AUTH_MODE="disabled")
    for check, level, words in (("dashboard", "warn", "answers 200 to anybody"), ("token", "warn", "without auth"),
                                ("ports", "fail", "6379 (gcs_server)")):
        seen = found[check]
        assert seen[0] == level and words in seen[1] and "ray get-auth-token --generate" in seen[2], (check, seen)
