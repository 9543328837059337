"""The service against its own OpenAPI page: schemathesis finds no 500 and nothing that the page does not say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rewards.service.running import ScriptedPool, brightness, serving

ROOT = Path(__file__).parents[3]
# What the schema cannot say, that images must be of one size and masks of two colours, is refused as it should be.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path):
    pool = ScriptedPool(brightness, {"editscore_in_rotation": 1.0})
    pool.held.set()
    with serving(pool) as (client, _):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                f"{client.url}/openapi.json",
                *CHECKS,
                "--phases",
                "examples,coverage,fuzzing",
                "--max-examples",
                "150",
                "--seed",
                "20261121",
                "--generation-deterministic",
                "--continue-on-failure",
                "--no-color",
                "--suppress-health-check",
                "all",
            ],
            cwd=tmp_path,
            timeout=300,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.rewards.service.schemathesis_hooks",
                "PYTHONPATH": str(ROOT),
            },
        )
        assert done.returncode == 0, done.stdout
        assert "Operations:       4 selected / 4 total" in done.stdout and "No issues found" in done.stdout
        counted = {
            int(status): int(float(count))
            for status, count in re.findall(
                r'locus_requests_total\{path="/v1/score",status="(\d+)"\} (\S+)', client.get("/metrics").body.decode()
            )
        }
    # The witness: requests of every kind did arrive, and some of them were scored.
    assert pool.asked and counted[200] == len(pool.asked)
    assert counted[422] > 100 and counted[415] and counted[405]
    assert not [status for status in counted if status >= 500]
