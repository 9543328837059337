"""That the speed of the reward pool measures what it says, in small. No number of seconds is asserted."""

import asyncio
import re
import subprocess

import numpy as np
import pytest
import torch

from configs.load import load_config
from evaluation.speed import group, null_judge, pixels, rewards, service
from rewards import pixel
from tests.judges.scripted import ScriptedServer


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (group, pixels, rewards, service):
        for name, value in (("GROUP", 3), ("SIDE", 24), ("SMALL", 16)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def test_the_bare_operations_give_the_same_numbers():
    given = group.group_of(3, 40)
    source, mask = given.task.source, given.task.edit_mask
    psnr, ssim = pixels.bare_psnr_ssim(torch.tensor(given.images), torch.tensor(source), torch.tensor(~mask))
    torch.testing.assert_close(psnr.float(), pixel.background_psnr(given.images, source, mask), rtol=1e-6, atol=0)
    torch.testing.assert_close(ssim.float(), pixel.background_ssim(given.images, source, mask), rtol=1e-6, atol=0)


def test_loops_and_pool_ask_the_same_requests_as_often():
    given = group.group_of(3, 16)
    requests = rewards.requests_of(given)
    assert len(requests) == 3 * rewards.PASSES and {q.seed for q in requests} == {0, 1, 2, 3}
    with ScriptedServer("slow:0.02") as server, asyncio.Runner() as runner:
        config = load_config(["--rewards.judge.concurrency", "2"]).rewards.judge
        rows = rewards.measure_throughput(config, server.url, runner, 1)
        asked = server.requests
        assert server.peak == 2
    # Two sizes, three ways to ask, a warm-up and a repetition.
    assert len(asked) == 2 * 3 * 2 * len(requests)
    by_way = [asked[i : i + len(requests)] for i in range(0, len(asked), len(requests))]
    wanted = sorted((one.seed, one.text, one.images, one.temperature, one.max_tokens) for one in by_way[0])
    for way in by_way[1:6]:
        assert sorted((one.seed, one.text, one.images, one.temperature, one.max_tokens) for one in way) == wanted
    assert all(one.fields["response_format"] == asked[0].fields["response_format"] for one in asked)
    assert [(row.goal, row.at_least) for row in rows] == [(0.95, True)] * 2 + [(None, True)] * 2


def test_the_cache_is_used_where_it_should_be():
    config = load_config(["--rewards.judge.editscore.passes", "2"])
    with ScriptedServer() as server, asyncio.Runner() as runner:
        rows = rewards.measure_cache(config.rewards.judge, server.url, runner, 2)
        # A warm-up fills the cache; without the cache everything is asked each time (warm-up and two repetitions).
        assert len(server.requests) == 3 * 2 * 2 * (1 + 3)
    assert len(rows) == 2 and all(row.ratio.count == 2 and row.goal is None for row in rows)


def test_pixels_row():
    rows, clock = pixels.measure_pixels(1, 2)
    assert [row.goal for row in rows] == [1.2] and clock.startswith("CPU seconds")


def test_service_rows():
    rows = service.measure_service(1)
    assert len(rows) == 2 and all(row.numerator.median > 0 for row in rows)


def test_a_service_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(service.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="expected its address"), service.null_service():
        pass


def test_null_judge_responds_to_every_request_and_ends(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(null_judge.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    config = load_config([]).rewards.judge
    requests = rewards.requests_of(group.group_of(2, 16))

    async def ask(url):
        pool = rewards.JudgePool("editscore", [url], "judge", config, "none")
        await pool.start()
        responses = await asyncio.gather(*(pool.ask(request) for request in requests))
        await pool.close()
        return responses

    with null_judge.null_judge() as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        assert {response.text for response in asyncio.run(ask(url))} == {
            '{"reasoning": "As asked; the rest is unchanged.", "score": [20, 15]}'
        }
    assert started[0].returncode == 0


def test_the_null_scorer_scores_nothing():
    scores = null_judge.zero(group.group_of(3, 16))
    assert [score.value for score in scores] == [0.0] * 3


def test_the_group_is_what_it_says():
    given = group.group_of(2, 32)
    assert given.images.shape == (2, 32, 32, 3) and 0.1 < given.task.edit_mask.mean() < 0.2
    assert not np.array_equal(given.images[0], given.images[1])
