"""Tests of rewards.cache.redis_cache on servers that are killed, refuse, hang or talk nonsense."""

import asyncio
import signal
from types import SimpleNamespace

import pytest
import redis
from structlog.testing import capture_logs

from configs.rewards import RedisConfig
from rewards.cache import redis_cache
from rewards.cache.base import cache_key, encode
from rewards.cache.open import open_cache
from rewards.cache.redis_cache import CONNECTIONS, FIRST_DELAY, LONGEST_DELAY, RedisCache
from tests.rewards.cache.test_redis_cache import CANARY, KEYS, SCORES, address, expect, used
from tests.rewards.cache.valkeys import free_port, shared_valkey


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
            await asyncio.gather(*(expect(cache, KEYS, list(SCORES.values())) for _ in range(50)))
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
        right = used(address(port), lambda cache: expect(cache, KEYS, list(SCORES.values())), password=CANARY)
        for password in ("", f"{CANARY}-not"):
            wrong = used(address(port), lambda cache: expect(cache, KEYS, [None] * 5), password=password)
            assert wrong.statistics().faults == 1 and wrong.statistics().misses == 5
    assert right.statistics().hits == 5 and right.statistics().faults == 0
    assert len(logs) == 2 and all("LOCUS_REDIS_PASSWORD" in log["reason"] for log in logs)
    assert CANARY not in f"{logs!r} {right!r} {right!s} {wrong!r}"


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
