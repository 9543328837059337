"""Overhead of the reward pool relative to the indispensable work: `python -m evaluation.speed rewards`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import httpx2  # the HTTP library of the OpenAI client
from openai import AsyncOpenAI

from configs.judges import JudgeConfig
from configs.rewards import RedisConfig
from configs.schema import RunConfig
from evaluation.speed.group import GROUP, SIDE, SMALL, group_of, text_of
from evaluation.speed.null_judge import null_judge
from evaluation.speed.pixels import measure_pixels
from evaluation.speed.service import measure_service
from evaluation.speed.table import ratio
from evaluation.speed.timing import Measured, interleaved
from rewards.cache.base import NoCache, ScoreCache
from rewards.cache.open import open_cache
from rewards.judge.images import encode_png
from rewards.judge.messages import JudgeRequest
from rewards.judge.parsing import PAIR_SCHEMA
from rewards.judge.pool import JudgePool
from rewards.judge.prompts import success_parts
from rewards.offline.command import warnings_only
from rewards.scorer_api import ScoreInput
from rewards.scorers.editscore import EditScore
from rewards.scorers.judged import cache_keys

PASSES = 4


def requests_of(given: ScoreInput) -> list[JudgeRequest]:
    """EditScore's first request about every edit, `PASSES` times with different seeds, in its own order."""
    source = encode_png(given.task.source)
    parts = [success_parts(given.task.instruction, source, encode_png(image)) for image in given.images]
    return [
        JudgeRequest(
            parts=part, max_tokens=512, temperature=0.7, top_p=0.9, top_k=20, seed=seed, json_schema=PAIR_SCHEMA
        )
        for part in parts
        for seed in range(PASSES)
    ]


async def ask_pool(pool: JudgePool, requests: Sequence[JudgeRequest]) -> None:
    """Send all requests to the pool at once."""
    await asyncio.gather(*(pool.ask(request) for request in requests))


def bare_request(request: JudgeRequest) -> dict[str, Any]:
    """The request in the OpenAI protocol, without vLLM's extensions."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": "data:image/png;base64," + text_of(part)}}
        for part in request.parts
    ]
    schema = {"name": "answer", "strict": True, "schema": dict(request.json_schema or {})}
    return {
        "model": "judge",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


async def ask_bare(client: AsyncOpenAI, requests: Sequence[JudgeRequest], concurrency: int) -> None:
    """Send the same requests in the obvious loop over this client."""
    places = asyncio.Semaphore(concurrency)

    async def ask(request: JudgeRequest) -> str | None:
        async with places:
            response = await client.chat.completions.create(**bare_request(request))
        found: str | None = response.choices[0].message.content
        return found

    await asyncio.gather(*(ask(request) for request in requests))


async def post_bare(client: AsyncOpenAI, requests: Sequence[JudgeRequest], concurrency: int) -> None:
    """Send the same requests with the least that this client can do: send JSON and read JSON."""
    places = asyncio.Semaphore(concurrency)

    async def ask(request: JudgeRequest) -> str:
        async with places:
            response = await client.post("/chat/completions", body=bare_request(request), cast_to=httpx2.Response)
        found: str = json.loads(response.content)["choices"][0]["message"]["content"]
        return found

    await asyncio.gather(*(ask(request) for request in requests))


def measure_throughput(config: JudgeConfig, url: str, runner: asyncio.Runner, repetitions: int) -> list[Measured]:
    """The judge pool relative to bare loops over the same client, on the same server at the same concurrency."""
    pool = JudgePool("editscore", [url], "judge", config, "none")
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    runner.run(pool.start())
    rows = []
    for side, goal in ((SIDE, 0.95), (SMALL, None)):
        requests = requests_of(group_of(GROUP, side))
        bare, posts, pooled = interleaved(
            [
                in_loop(runner, partial(ask_bare, client, requests, config.concurrency)),
                in_loop(runner, partial(post_bare, client, requests, config.concurrency)),
                in_loop(runner, partial(ask_pool, pool, requests)),
            ],
            repetitions,
        )
        for name, seconds in (("chat.completions", bare), ("bare POSTs", posts)):
            rows.append(
                ratio(
                    f"throughput, {side}²: a loop of {name} / judge pool",
                    [s / len(requests) for s in seconds],
                    [s / len(requests) for s in pooled],
                    goal,
                    at_least=True,
                )
            )
    runner.run(pool.close())
    runner.run(client.close())
    return rows


def measure_cache(judge: JudgeConfig, url: str, runner: asyncio.Runner, repetitions: int) -> list[Measured]:
    """A group whose passes are all cached, relative to requests to a judge that responds immediately."""
    given = group_of(GROUP, SIDE)
    pool = JudgePool("editscore", [url], "judge", judge, "none")
    runner.run(pool.start())

    async def opened() -> ScoreCache:
        return open_cache(RedisConfig(timeout=10.0), None)

    cache = runner.run(opened())
    cached, asked = (EditScore(pool, judge.editscore, which) for which in (cache, NoCache()))
    keys = cache_keys(given, cached.parts(), judge.editscore.passes)
    hit, miss, lookup = interleaved(
        [
            in_loop(runner, lambda: cached(given)),
            in_loop(runner, lambda: asked(given)),
            in_loop(runner, lambda: cache.get(keys)),
        ],
        repetitions,
    )
    counts = cache.statistics()
    if counts.misses != len(keys) or counts.faults:
        raise RuntimeError(f"the benchmark's cache: expected {len(keys)} misses, got {counts}")
    runner.run(cache.close())
    runner.run(pool.close())
    return [
        ratio(
            "a pass from the cache / asked of a judge that responds at once",
            [s / len(keys) for s in hit],
            [s / len(keys) for s in miss],
        ),
        ratio(
            "looking a pass up / a pass from the cache", [s / len(keys) for s in lookup], [s / len(keys) for s in hit]
        ),
    ]


def in_loop(runner: asyncio.Runner, work: Callable[[], Awaitable[object]]) -> Callable[[], float]:
    """A function that runs the work in the runner's event loop and returns its wall seconds."""

    async def measure() -> float:
        clock = asyncio.get_running_loop().time
        start = clock()
        await work()
        return clock() - start

    return lambda: runner.run(measure())


def measure(config: RunConfig, repetitions: int) -> tuple[list[Measured], str]:
    """All rows, and the clocks they were measured with."""
    pixels, clock = measure_pixels(config.cluster.threads_per_process, repetitions)
    with warnings_only(), asyncio.Runner() as runner, null_judge() as url:
        rows = measure_throughput(config.rewards.judge, url, runner, repetitions) + pixels
        rows += measure_cache(config.rewards.judge, url, runner, repetitions)
    return rows + measure_service(repetitions), f"wall seconds, but {clock} for PSNR and SSIM"
