"""Judges and the score cache as a node sees them, over real sockets."""

import socket
import tempfile

import pytest

from cluster.doctor.services import judge_finding, redis_finding, service_findings
from configs.load import load_config
from configs.rewards import RedisConfig, RewardsConfig
from tests.cluster.web import serving


@pytest.fixture
def server():
    with serving() as told:
        told.responses["/v1/models"] = (200, {"data": [{"id": "judge"}, {"id": "other"}]})
        yield told


def test_a_judge_that_serves_the_model_is_ok_and_gets_the_key(server, monkeypatch):
    monkeypatch.setenv("LOCUS_JUDGE_API_KEY", "canary-key")
    found = judge_finding("qwen_vl", f"{server.address}/v1", "judge")
    assert found.level == "ok" and "canary" not in f"{found}"
    assert server.seen[0][2]["Authorization"] == "Bearer canary-key"


@pytest.mark.parametrize(
    ("response", "words", "fix"),
    [
        ((200, {"data": [{"id": "other"}]}), "serves other, not judge", "--served-model-name judge"),
        ((401, "no"), "rejects the API key (401)", "set LOCUS_JUDGE_API_KEY"),
        ((500, "no"), "responds with 500", "log"),
        ((200, "<html>"), "does not respond as a judge", "start the server"),
        ((200, {"data": None}), "does not respond as a judge", "start the server"),
    ],
)
def test_what_is_wrong_with_a_judge_is_said(server, monkeypatch, response, words, fix):
    monkeypatch.delenv("LOCUS_JUDGE_API_KEY", raising=False)
    server.responses["/v1/models"] = response
    found = judge_finding("qwen_vl", f"{server.address}/v1", "judge")
    assert found.level == "fail" and words in found.seen and fix in found.fix


def test_nobody_and_no_server_at_all():
    found = judge_finding("editscore", "http://user:canary@127.0.0.1:9/v1", "judge")
    assert found.level == "fail" and "Connection refused" in found.seen and "canary" not in f"{found}"
    assert judge_finding("editscore", "file:///etc/passwd", "judge").seen == "file:///etc/passwd is not an http address"


def test_every_configured_server_gets_a_line(server):
    flags = [
        "--rewards.judge.qwen_vl.urls",
        f"['{server.address}/v1', '{server.address}/v1/']",
        "--rewards.judge.qwen_vl.revision",
        "1",
        "--redis.mode",
        "url",
        "--redis.url",
        "redis://127.0.0.1:9/0",
    ]
    config = load_config(flags)
    found = service_findings(config.rewards, config.redis)
    assert [(one.check, one.level) for one in found] == [
        ("judge qwen_vl", "ok"),
        ("judge qwen_vl", "ok"),
        ("score cache", "warn"),
    ]
    assert service_findings(RewardsConfig(), RedisConfig()) == []


def test_a_cache_that_listens():
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert redis_finding(f"redis://127.0.0.1:{tcp.getsockname()[1]}/0").level == "ok"
    # Not below pytest's folder: the path of a socket has 107 letters at most.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"{folder}/s")
        assert redis_finding(f"unix://{folder}/s").level == "warn"  # nothing listens
        local.listen()
        assert redis_finding(f"unix://{folder}/s").level == "ok"
