"""Both judges on real vLLM servers of our own: scores, cache, what is open, and what is left when a part is killed.

The tests share the servers and come in this order; the last ones kill them.
"""

import asyncio
import http.client
import http.server
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from configs.schema import RunConfig
from editing.task import EditTask
from rewards.offline.command import NO_TASKS
from rewards.open import open_pool
from rewards.vllm import guard
from rewards.vllm.local import LocalJudgeServers
from tests.rewards.vllm.conftest import alive, gone_within
from tests.vllm.conftest import judges

KEY = "only-for-this-test"
NAMES = ("editscore", "qwen_vl")


@pytest.fixture(scope="module")
def config(checkpoints, tmp_path_factory):
    return RunConfig.model_validate(
        {
            "folder": str(tmp_path_factory.mktemp("runs")),
            "name": "direct",
            "rewards": {"weights": {"editscore": 1, "qwen_vl": 1}, "judge": judges(checkpoints)},
        }
    )


@pytest.fixture(scope="module")
def servers(config):
    """Both servers, by judge; started together, and gone at the end whatever the tests did to them."""
    events = []
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("LOCUS_JUDGE_API_KEY", KEY)
        folder = Path(config.folder) / config.name
        made = {
            name: LocalJudgeServers(
                config.rewards.judge,
                name,
                folder,
                lambda event, **fields: events.append({"event": event, **fields}),
                lambda urls: None,
            )
            for name in NAMES
        }
        for one in made.values():
            stack.callback(one.close)
            one.start()
        for one in made.values():
            one.wait()
        yield made, {event["judge"]: event for event in events}
    for log in folder.glob("judges/*.log"):
        assert guard.writers(log) == set()


def task_and_edits():
    random = np.random.default_rng(3)
    source = random.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    mask = np.zeros((64, 80), bool)
    mask[10:30, 20:60] = True
    edits = np.stack([np.where(mask[..., None], random.integers(0, 256, 3, dtype=np.uint8), source) for _ in range(4)])
    return EditTask("one", source, mask, 'make the "square" another colour'), edits


def ask(url, method, path, body=None, key=KEY):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    try:
        connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        )
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def test_both_judges_score_and_the_cache_remembers(config, servers, row, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCUS_JUDGE_API_KEY", KEY)
    made, started = servers
    for name in NAMES:
        row(f"start {name}", started[name]["seconds"])
    task, edits = task_and_edits()

    async def twice():
        pool = open_pool(config, NO_TASKS, {name: made[name].urls() for name in NAMES}, folder=tmp_path)
        try:
            assert await pool.start() == dict.fromkeys(NAMES, 1)
            results = []
            for what in ("score 4 edits", "the same again"):
                begin = time.monotonic()
                scores = await pool.score_task(task, edits)
                results.append((what, time.monotonic() - begin, scores, await pool.statistics()))
            return results
        finally:
            await pool.close()

    (what, seconds, scores, now), (again, seconds_again, scores_again, later) = asyncio.run(twice())
    for name in NAMES:
        row(f"{what}, {name}", seconds, name, now)
        row(f"{again}, {name}", seconds_again, name, later)
        assert [score.error for score in scores[name]] == [None] * 4
        assert all(0 <= score.value <= 1 for score in scores[name])
        assert [score.value for score in scores[name]] == [score.value for score in scores_again[name]]
    assert len({score.value for score in scores["qwen_vl"]}) == 4  # the images matter, if not much to a tiny model
    assert all(len(score.passes) == 2 and max(score.passes) > 0 for score in scores["editscore"])
    assert now["editscore_asked"] >= 4 * 2 * 2 and now["qwen_vl_asked"] >= 4
    assert [later[f"{name}_asked"] for name in NAMES] == [now[f"{name}_asked"] for name in NAMES]
    assert now["cache_hits"] == 0 and later["cache_hits"] == 4 * 2 + 4


def test_editscores_lora_is_merged_into_what_is_served(servers):
    for name, is_merged in (("editscore", True), ("qwen_vl", False)):
        command = psutil.Process(servers[1][name]["pid"]).cmdline()
        assert ("/.merged/" in command[command.index("--model") + 1]) == is_merged
        assert not any(KEY in word for word in command)


def test_servers_serve_what_judges_need_and_nothing_else(servers):
    for one in servers[0].values():
        (url,) = one.urls()
        text = {"model": "judge", "prompt": "0 5", "add_special_tokens": False}
        assert ask(url, "POST", "/tokenize", text)[0] == 200
        assert ask(url, "GET", "/v1/models")[0] == 200
        for path in ("/tokenize", "/v1/chat/completions", "/v1/models", "/metrics"):
            assert ask(url, "GET" if path in ("/metrics", "/v1/models") else "POST", path, text, key="")[0] == 401
        for path in ("/invocations", "/pause", "/v1/completions", "/v1/load_lora_adapter", "/collective_rpc"):
            assert ask(url, "POST", path, {})[0] == 404


def test_servers_fetch_nothing(servers):
    asked = []

    class Bait(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    bait = http.server.HTTPServer(("127.0.0.1", 0), Bait)
    threading.Thread(target=bait.serve_forever, daemon=True).start()
    try:
        for one in servers[0].values():
            for image in (f"http://127.0.0.1:{bait.server_port}/a.png", "file:///etc/hostname"):
                status, _ = ask(
                    one.urls()[0],
                    "POST",
                    "/v1/chat/completions",
                    {
                        "model": "judge",
                        "max_tokens": 1,
                        "messages": [
                            {
                                "role": "user",
                                "content": [
                                    {"type": "image_url", "image_url": {"url": image}},
                                    {"type": "text", "text": "?"},
                                ],
                            }
                        ],
                    },
                )
                assert status >= 400
    finally:
        bait.shutdown()
    assert asked == []


def tree(started):
    return guard.descendants(started["pid"]) | {started["pid"]}


def test_nothing_listens_beyond_loopback(servers):
    for started in servers[1].values():
        listening = [
            socket.laddr
            for pid in tree(started)
            for socket in psutil.Process(pid).net_connections("inet")
            if socket.status == psutil.CONN_LISTEN
        ]
        assert listening and {address.ip for address in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(("judge", "victim"), [("editscore", "VLLM::EngineCore"), ("qwen_vl", "api_server")])
def test_a_killed_part_takes_all_of_the_server_with_it(servers, row, judge, victim):
    pids = tree(servers[1][judge])
    assert len(pids) >= 5
    assert len({os.getpgid(pid) for pid in pids}) == 1  # vLLM makes no group of its own
    # The guards' command lines end with that of the server.
    (found,) = [pid for pid in pids if victim in " ".join(psutil.Process(pid).cmdline()[:3])]
    begin = time.monotonic()
    os.kill(found, signal.SIGKILL)
    assert gone_within(pids, 60)
    row(f"all gone after kill -9 of {victim}", time.monotonic() - begin)
    assert not any(map(alive, pids))
