"""What a judge server responds at all, and to whom."""

import asyncio

import pytest

from rewards.vllm.inside.locus_allow_list import AllowList


def ask(app, method, path, headers=(), kind="http"):
    """What is sent back: the messages, and whether the server behind was reached."""
    sent, reached = [], []

    async def server(scope, receive, send):
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {"type": kind, "path": path, "headers": list(headers)} | ({"method": method} if kind == "http" else {})
    asyncio.run(app(server)(scope, receive, send))
    return sent[0].get("status", sent[0]["type"]), bool(reached)


KEY = (b"authorization", b"Bearer the-key")


@pytest.fixture
def with_key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "the-key")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/chat/completions", [KEY], 200),
        ("POST", "/tokenize", [KEY], 200),
        ("GET", "/v1/models", [KEY], 200),
        ("GET", "/health", [], 200),
        ("POST", "/v1/chat/completions", [], 401),
        ("POST", "/tokenize", [], 401),
        ("GET", "/metrics", [], 401),
        ("POST", "/tokenize", [(b"authorization", b"Bearer other")], 401),
        ("POST", "/tokenize", [KEY, KEY], 401),
        ("POST", "/tokenize", [(b"authorization", b"\xff\xfe")], 401),
        ("POST", "/invocations", [KEY], 404),
        ("POST", "/pause", [KEY], 404),
        ("GET", "/docs", [KEY], 404),
        ("GET", "/v1/chat/completions", [KEY], 404),
        ("OPTIONS", "/tokenize", [], 404),
        ("POST", "/tokenize/", [KEY], 404),
    ],
)
def test_few_paths_and_only_with_the_key(with_key, method, path, headers, status):
    assert ask(AllowList, method, path, headers) == (status, status == 200)


def test_without_a_key_the_paths_are_the_same(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert ask(AllowList, "POST", "/tokenize") == (200, True)
    assert ask(AllowList, "POST", "/pause") == (404, False)


def test_websockets_are_closed(with_key):
    assert ask(AllowList, "", "/v1/realtime", kind="websocket") == ("websocket.close", False)
