"""Tests of rewards.cache.redis_cache on real servers that are killed, refuse, hang or talk nonsense."""

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from structlog.testing import capture_logs

from configs.rewards import RedisConfig
from rewards.cache import redis_cache
from rewards.cache.base import cache_key, encode
from rewards.cache.open import open_cache
from rewards.cache.redis_cache import CONNECTIONS, FIRST_DELAY, LONGEST_DELAY, PREFIX, RedisCache
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
    used(server, lambda cache: _expect(cache, KEYS[:2], [0.75, 0.1]))  # another process would find them, too


async def _expect(cache, keys, values):
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


def test_scoring_goes_on_while_the_server_is_gone_and_the_cache_heals():
    port = free_port()

    async def use(cache):
        with shared_valkey(port) as first:
            await cache.put(SCORES)
            assert await cache.get(KEYS) == list(SCORES.values())
            first.kill()
            first.wait()
            for _ in range(200):
                assert await cache.get(KEYS) == [None] * 5
                await cache.put(SCORES)
            # The witness: the fault was met, and 400 further requests did not meet it 400 times.
            assert 1 <= cache.statistics().faults < 20
        with shared_valkey(port):
            while await cache.get(KEYS[:1]) != [0.0]:
                await cache.put(SCORES)
                await asyncio.sleep(0.02)
            assert await cache.get(KEYS) == list(SCORES.values())
            faults = cache.statistics().faults
            for _ in range(20):
                assert await cache.get(KEYS) == list(SCORES.values())
            assert cache.statistics().faults == faults

    with capture_logs() as logs:
        used(address(port), use)
    assert [log["event"] for log in logs] == ["score_cache_away", "score_cache_back"]


def test_the_delay_grows_to_a_limit_and_ends_with_the_first_response(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(redis_cache, "time", SimpleNamespace(monotonic=lambda: clock.now))
    port = free_port()

    async def use(cache):
        for expected in (0.5, 1, 2, 4, 8, 16, 30, 30):
            before = cache.statistics().faults
            await cache.get(KEYS)
            faults = cache.statistics().faults
            assert faults == before + 1
            clock.now += expected - 0.01
            await asyncio.gather(*(cache.get(KEYS) for _ in range(50)))
            assert cache.statistics().faults == faults  # no request yet
            clock.now += 0.02
        await asyncio.gather(*(cache.get(KEYS) for _ in range(50)))
        assert cache.statistics().faults == faults + 1  # one tried for all
        clock.now += LONGEST_DELAY
        with shared_valkey(port):
            await cache.put(SCORES)
            await asyncio.gather(*(_expect(cache, KEYS, list(SCORES.values())) for _ in range(50)))
        await cache.get(KEYS)
        assert cache.statistics().faults == faults + 2
        clock.now += 0.51
        await cache.get(KEYS)
        assert cache.statistics().faults == faults + 3  # the delay began anew

    used(address(port), use)


def test_a_wrong_password_is_a_fault_that_never_shows_it():
    port = free_port()
    with shared_valkey(port, requirepass=CANARY), capture_logs() as logs:
        used(address(port), lambda cache: cache.put(SCORES), password=CANARY)
        right = used(address(port), lambda cache: _expect(cache, KEYS, list(SCORES.values())), password=CANARY)
        for password in ("", f"{CANARY}-not"):
            wrong = used(address(port), lambda cache: _expect(cache, KEYS, [None] * 5), password=password)
            assert wrong.statistics().faults == 1 and wrong.statistics().misses == 5
    assert right.statistics().hits == 5 and right.statistics().faults == 0
    assert len(logs) == 2 and all("LOCUS_REDIS_PASSWORD" in log["reason"] for log in logs)
    assert CANARY not in f"{logs!r} {right!r} {right!s} {wrong!r}"


def test_no_secret_of_the_address_shows():
    cache = RedisCache(f"redis://user:{CANARY}@127.0.0.1:1/0?password={CANARY}", CANARY, 0.1)
    assert repr(cache) == "RedisCache('redis://127.0.0.1:1/0')"
    assert repr(RedisCache("unix:///run/a%20b/socket", "", 0.1)) == "RedisCache('unix:///run/a%20b/socket')"


def test_a_full_server_that_evicts_nothing_keeps_serving():
    port = free_port()

    async def use(cache):
        await cache.put(SCORES)
        with redis.Redis.from_url(address(port)) as client:
            client.config_set("maxmemory", "1kb")
        await cache.put({cache_key(candidate=9): 0.9})
        assert cache.statistics().faults == 1
        while await cache.get(KEYS) != list(SCORES.values()):
            await asyncio.sleep(0.02)

    with shared_valkey(port):
        used(address(port), use)


REPLIES = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no_number": b"$abc\r\n",
    "no_count": b"*abc\r\n",
    "too_few": b"*1\r\n$1\r\nx\r\n",
    "number": b":5\r\n",
    "text": b"+OK\r\n",
    "error": b"-ERR no\r\n",
    "closed": b"",
    "cut_off": b"*5\r\n$100\r\nabc",
    "another_key": b"*5\r\n" + 5 * (b"$69\r\n%s\r\n" % encode("f" * 64, 0.5)),
    "nested": b"*5\r\n" + 5 * b"*1\r\n:1\r\n",
    "negative": b"*-7\r\n",
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_server_that_talks_nonsense_gives_no_score(name):
    async def run() -> None:
        asked = []

        async def response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.read(1))
            writer.write(REPLIES[name])
            writer.close()

        async with await asyncio.start_server(response, "127.0.0.1", 0) as nonsense:
            cache = RedisCache(address(nonsense.sockets[0].getsockname()[1]), "", 5.0)
            assert await cache.get(KEYS) == [None] * 5
            counts = cache.statistics()
            assert asked == [b"*"] and counts.misses == 5 and counts.hits == 0
            assert (counts.faults, counts.corrupt) in [(1, 0), (0, 5)]
            await cache.close()

    asyncio.run(run())


def test_a_server_that_hangs_is_waited_for_by_few_and_not_again(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(redis_cache, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def run() -> None:
        asked = []

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.read(1))
            await reader.read()
            writer.close()

        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            cache = RedisCache(address(server.sockets[0].getsockname()[1]), "", 3.0)
            assert await asyncio.gather(*(cache.get(KEYS[:1]) for _ in range(300))) == [[None]] * 300
            assert 2 <= len(asked) <= CONNECTIONS and cache.statistics().faults == (several := len(asked))
            # They met one fault together, so the delay is that of one.
            clock.now += FIRST_DELAY - 0.01
            assert await cache.get(KEYS[:1]) == [None] and len(asked) == several
            clock.now += 0.02
            assert await cache.get(KEYS[:1]) == [None] and len(asked) == several + 1
            await cache.close()

    asyncio.run(run())


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


def test_a_shared_server_that_is_away_at_the_start_is_reported_once(monkeypatch):
    port = free_port()
    monkeypatch.setenv("LOCUS_REDIS_PASSWORD", CANARY)
    monkeypatch.setattr(redis_cache, "READY_SECONDS", 0.3)
    config = RedisConfig(mode="url", url=address(port))

    async def run() -> None:
        cache = open_cache(config, None)
        await cache.ready()
        assert (cache.statistics().faults, cache.statistics().away) == (1, 1)
        assert await cache.get(KEYS) == [None] * 5
        await asyncio.sleep(0.6)
        assert await cache.get(KEYS) == [None] * 5
        assert cache.statistics().faults == 2
        with shared_valkey(port, requirepass=CANARY):
            async with asyncio.timeout(60):
                while await cache.get(KEYS[:1]) != [0.0]:
                    await cache.put(SCORES)
                    await asyncio.sleep(0.02)
        assert cache.statistics().away == 0
        await cache.close()

    with capture_logs() as logs:
        asyncio.run(run())
    assert [log["event"] for log in logs] == ["score_cache_away", "score_cache_back"]
    assert f"redis://127.0.0.1:{port}/0 does not respond" in logs[0]["reason"] and CANARY not in repr(logs)


def test_a_server_that_is_busy_at_the_start_is_waited_for_and_nothing_is_said():
    """Stopped, it takes connections and does not respond: five times as long as a request may take."""
    port, woken = free_port(), []

    async def run() -> None:
        cache = RedisCache(address(port), "", timeout=0.2)
        with shared_valkey(port) as server:
            server.send_signal(signal.SIGSTOP)
            wake = lambda: woken.append(server.send_signal(signal.SIGCONT))  # noqa: E731
            waking = asyncio.get_running_loop().call_later(1.0, wake)
            await cache.ready()
            assert woken  # it was waited for
            waking.cancel()
            await cache.put(SCORES)
            assert await cache.get(KEYS) == list(SCORES.values())
            assert (cache.statistics().faults, cache.statistics().away) == (0, 0)
            await cache.close()

    with capture_logs() as logs:
        asyncio.run(run())
    assert logs == []


def test_a_wrong_password_is_not_waited_for():
    port = free_port()

    async def run() -> None:
        cache = RedisCache(address(port), "wrong", timeout=5.0)
        with shared_valkey(port, requirepass=CANARY):
            async with asyncio.timeout(redis_cache.READY_SECONDS - 1):
                await cache.ready()
            assert cache.statistics().away == 1
            await cache.close()

    with capture_logs() as logs:
        asyncio.run(run())
    assert [log["event"] for log in logs] == ["score_cache_away"]


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
