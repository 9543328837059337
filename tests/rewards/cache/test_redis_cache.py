"""Tests of rewards.cache.redis_cache on real servers: what is kept, found, refused and replaced."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from configs.rewards import RedisConfig
from rewards.cache import redis_cache
from rewards.cache.base import cache_key, encode
from rewards.cache.open import open_cache
from rewards.cache.redis_cache import CONNECTIONS, PREFIX, RedisCache
from tests.rewards.cache.valkeys import eventually, free_port, shared_valkey

KEYS = [cache_key(candidate=index) for index in range(5)]
SCORES = {key: index / 10 for index, key in enumerate(KEYS)}
CANARY = "canary-c8d1f0e7"


def address(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def used(url: str, use: Callable[[RedisCache], Awaitable[None]], password: str = "") -> RedisCache:
    """Runs one use of a cache in an event loop, and gives back the closed cache."""

    async def run() -> RedisCache:
        cache = RedisCache(url, password, timeout=5.0)
        try:
            async with asyncio.timeout(60):
                await use(cache)
        finally:
            await cache.close()
        return cache

    return asyncio.run(run())


@pytest.fixture(scope="module")
def server():
    port = free_port()
    with shared_valkey(port):
        yield address(port)


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        with redis.Redis.from_url(request.getfixturevalue("server")) as client:
            client.flushall()


def test_scores_are_kept_and_found(server):
    async def use(cache):
        assert await cache.get(KEYS) == [None] * 5
        await cache.put({key: SCORES[key] for key in KEYS[:3]})
        assert await cache.get(KEYS) == [0.0, 0.1, 0.2, None, None]
        await cache.put({KEYS[0]: 0.75})
        assert await cache.get([KEYS[0], KEYS[0]]) == [0.75, 0.75]
        assert await cache.get([]) == []
        await cache.put({})

    counts = used(server, use).statistics()
    assert (counts.hits, counts.misses, counts.faults, counts.corrupt) == (5, 7, 0, 0)
    used(server, lambda cache: expect(cache, KEYS[:2], [0.75, 0.1]))  # another process would find them, too


async def expect(cache, keys, values):
    assert await cache.get(keys) == values


def test_stored_scores_expire_some_day(server):
    used(server, lambda cache: cache.put(SCORES))
    with redis.Redis.from_url(server) as client:
        assert sorted(client.keys()) == sorted((PREFIX + key).encode() for key in KEYS)
        assert all(0 < client.ttl(PREFIX + key) <= redis_cache.KEPT_SECONDS for key in KEYS)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"0.5",
        b"garbage",
        b"\x00\xff",
        b"1:",
        encode(KEYS[1], 0.5),
        b"2" + encode(KEYS[0], 0.5)[1:],
        f"1:{KEYS[0]}:nan".encode(),
        f"1:{KEYS[0]}:inf".encode(),
        encode(KEYS[0], 0.5)[:-1],
        encode(KEYS[0], 0.5) + b"\n",
    ],
)
def test_a_corrupt_or_foreign_value_is_a_counted_miss_and_is_replaced(server, stored):
    with redis.Redis.from_url(server) as client:
        client.set(PREFIX + KEYS[0], stored)

    async def use(cache):
        await cache.put({KEYS[1]: 0.25})
        assert await cache.get(KEYS[:3]) == [None, 0.25, None]
        assert (cache.statistics().corrupt, cache.statistics().misses, cache.statistics().hits) == (1, 2, 1)
        await cache.put({KEYS[0]: 0.5})
        assert await cache.get(KEYS[:1]) == [0.5]

    assert used(server, use).statistics().faults == 0


def test_a_value_of_another_kind_is_a_miss_and_is_replaced(server):
    with redis.Redis.from_url(server) as client:
        client.rpush(PREFIX + KEYS[0], "a list")

    async def use(cache):
        assert await cache.get(KEYS[:1]) == [None]
        await cache.put({KEYS[0]: 0.5})
        assert await cache.get(KEYS[:1]) == [0.5]

    assert used(server, use).statistics().faults == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_all_that_comes_along(server, value):
    async def use(cache):
        with pytest.raises(ValueError, match="must be finite"):
            await cache.put({KEYS[0]: 0.5, KEYS[1]: value})
        assert await cache.get(KEYS[:2]) == [None, None]

    used(server, use)


def test_many_requests_at_once_need_few_connections(server):
    async def use(cache):
        await cache.put(SCORES)
        assert await asyncio.gather(*(cache.get(KEYS) for _ in range(300))) == [list(SCORES.values())] * 300

    with redis.Redis.from_url(server) as client:
        before = client.info("stats")["total_connections_received"]
        assert used(server, use).statistics().faults == 0
        assert 1 <= client.info("stats")["total_connections_received"] - before <= CONNECTIONS


def test_no_secret_of_the_address_shows():
    cache = RedisCache(f"redis://user:{CANARY}@127.0.0.1:1/0?password={CANARY}", CANARY, 0.1)
    assert repr(cache) == "RedisCache('redis://127.0.0.1:1/0')"
    assert repr(RedisCache("unix:///run/a%20b/socket", "", 0.1)) == "RedisCache('unix:///run/a%20b/socket')"


def test_a_request_that_was_given_up_leaves_no_response_behind(server):
    async def use(cache):
        await cache.put(SCORES)
        with redis.Redis.from_url(server) as client:
            client.execute_command("CLIENT", "PAUSE", "2000", "ALL")
        asked = [asyncio.ensure_future(cache.get([key])) for key in KEYS[:4]]
        await asyncio.sleep(0.05)
        for one in asked:
            one.cancel()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        for key, value in reversed(SCORES.items()):
            assert await cache.get([key]) == [value]

    counts = used(server, use).statistics()
    assert counts.corrupt == 0 and counts.faults == 0


def test_an_embedded_server_comes_and_goes_with_its_cache(tmp_path: Path):
    async def run(expected: list[float | None]) -> str:
        cache = open_cache(RedisConfig(timeout=5.0), tmp_path)
        path = repr(cache).split("'")[1].removeprefix("unix://")
        assert Path(path).is_socket()
        assert await cache.get(KEYS) == expected
        await cache.put(SCORES)
        assert await cache.get(KEYS) == list(SCORES.values())
        await cache.close()
        return path

    first = asyncio.run(run([None] * 5))
    assert eventually(lambda: not Path(first).exists())
    asyncio.run(run(list(SCORES.values())))  # a resumed run finds what was scored before
