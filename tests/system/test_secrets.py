"""Secrets of a run are in no file of it, nor in anything that it says."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.judges.scripted import ScriptedServer
from tests.learner.tiny_run import tiny_run
from tests.system.test_judges import MODES, ROOT

CANARY = "canary-4f1d7c9be2a84d0f-judge"
REDIS_CANARY = "canary-93ab6e0d5c7f4421-redis"


def files_with(folder: Path, *secrets: str) -> list[Path]:
    """Files below a folder in which one of the secrets stands, as text or as bytes."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]


def test_the_search_finds_a_secret(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"\0\1" + CANARY.encode() + b"\2")
    (tmp_path / "c").write_text("nothing")
    assert files_with(tmp_path, CANARY, REDIS_CANARY) == [tmp_path / "a" / "b.bin"]


@pytest.mark.parametrize("mode", MODES)
def test_no_secret_is_written_or_said(mode, tiny_kontext, tmp_path):
    with (
        ScriptedServer(["500", "500", "good", "garbage", "garbage", "good"]) as judge,
        tempfile.TemporaryDirectory(prefix="locus-") as ray_logs,
    ):  # short: sockets are made in it
        judge.scripted.quote = CANARY  # a server that quotes the key in its errors
        config = tiny_run(
            tiny_kontext,
            tmp_path,
            "secret",
            {
                "rewards": {
                    "weights": {"editscore": 1.0},
                    "min_valid": 2,
                    "judge": {"editscore": {"urls": [judge.url], "passes": 1, "revision": "1"}},
                },
                "redis": {"mode": "url", "url": "redis://127.0.0.1:9/0"},  # no server there: faults are reported, too
                "cluster": {"mode": mode},
                "learner": {"steps": 2},
                "report": {"tracker": "tensorboard"},
            },
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        said = subprocess.run(
            [sys.executable, "-m", "learner.main", "--config", str(tmp_path / "config.yaml"), "--name", "secret"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
            env={
                **os.environ,
                "LOCUS_JUDGE_API_KEY": CANARY,
                "LOCUS_REDIS_PASSWORD": REDIS_CANARY,
                "RAY_TMPDIR": ray_logs,
            },
        )
        assert said.returncode == 0, said.stderr
        assert judge.served("500") == 2 and judge.served("garbage") >= 2
        assert all(asked.authorization == f"Bearer {CANARY}" for asked in judge.log)  # the key was used
        assert "cache of judge scores does not respond" in said.stdout  # and so was the password
        assert not any(secret in said.stdout + said.stderr for secret in (CANARY, REDIS_CANARY))
        assert len(list((tmp_path / "secret").rglob("*"))) > 15
        assert files_with(tmp_path, CANARY, REDIS_CANARY) == []
        if mode == "ray":
            assert list(Path(ray_logs).rglob("*.out"))
            assert files_with(Path(ray_logs), CANARY, REDIS_CANARY) == []
