"""Calls to processes of the run, and their replies, get lost on the way, although the work may have been done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learner.audit import audited
from learner.state.event_log import read_events
from tests.system.lossy_driver import GROUPS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]

ROOT = Path(__file__).parents[2]
LOST = {
    "CoreWorkerService.grpc_client.PushTask": {
        "num_failures": 20,
        "req_failure_prob": 5,
        "resp_failure_prob": 5,
        "in_flight_failure_prob": 0,
    }
}
"""What Ray loses of the calls to actors: so many percent on the way there and back, and so many in all."""


def test_lost_calls_and_replies_cost_groups_an_attempt_and_nothing_else(tiny_kontext, tmp_path):
    driver = subprocess.run(
        [sys.executable, "-m", "tests.system.lossy_driver", str(tiny_kontext), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "RAY_testing_rpc_failure": json.dumps(LOST), "RAY_AUTH_MODE": "token"},
    )
    assert driver.returncode == 0, driver.stderr[-4000:]
    ends = json.loads(driver.stdout.splitlines()[-1])
    assert ends[-1] == "" and all("The reward pool died" in end for end in ends if end), ends
    events = list(read_events(tmp_path / "run" / "events.jsonl"))
    lost = [event for event in events if event["event"] == "worker_lost"]
    # The processes were well; only their responses were lost.
    assert lost and all("Unavailable" in event["reason"] for event in lost), lost
    assert sum(event["jobs"] for event in lost) >= 1 and any(event["event"] == "requeued" for event in events)
    audit = audited(tmp_path / "run" / "events.jsonl")
    assert not any(audit.faults.values()), audit.faults
    steps = json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]
    assert sorted(audit.trained) == [(step, slot) for step in range(steps) for slot in range(GROUPS)]
