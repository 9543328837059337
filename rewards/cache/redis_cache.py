"""The score cache on a Redis or Valkey server that may go away at any time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from configs.rewards import RedisConfig
from locus.common.backoff import backoff
from rewards.cache.base import CacheStatistics, check_finite, decode, encode
from rewards.cache.valkey import EmbeddedValkey

PASSWORD_VARIABLE = "LOCUS_REDIS_PASSWORD"
PREFIX = "locus:score:"
"""Of every key, since a shared server may hold other things."""
KEPT_SECONDS = 30 * 24 * 3600
"""After a month an unused score goes, so that a shared server does not grow without bound."""
CONNECTIONS = 4
"""Requests at the same time. More would not be faster: the server works on one at a time."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds after a fault before the server is asked again, doubled with each fault."""
READY_SECONDS = 15.0
"""How long a server is waited for at the start, where a busy machine may be slow to respond the first time."""
READY_AGAIN = 0.1
"""Seconds between two tries meanwhile."""
WARN_EVERY = 600.0
"""Seconds between two warnings, so that a server that comes and goes does not fill the log."""

# ValueError is what redis-py raises for some responses that are not the Redis protocol at all.
_FAULTS = (RedisError, OSError, TimeoutError, ValueError)

logger = structlog.get_logger(__name__)


class RedisCache:
    """See `rewards.cache.base.ScoreCache`. Belongs to one event loop.

    A fault is counted, and for a while nothing is asked: then one request tries again, and the others go on
    without waiting for it. So a server that is gone costs one `timeout` per delay, and its return is noticed.
    """

    def __init__(self, url: str, password: str, timeout: float, server: EmbeddedValkey | None = None) -> None:
        """
        Args:
            url: redis://, rediss:// or unix://, without the password.
            password: empty for none.
            timeout: seconds for one request, connecting included.
            server: is stopped with the cache.

        Raises:
            ValueError: when the URL is invalid.
        """
        options: dict[str, Any] = {
            **parse_url(url),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # trying again is this class's own business
            "protocol": 2,  # strings are all we need, and every server and proxy speaks it
            "driver_info": None,
        }
        if password:
            options["password"] = password
        self._client = Redis(connection_pool=ConnectionPool(**options))
        self._name, self._timeout, self._server = _shown(url), timeout, server
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._hits = self._misses = self._faults = self._corrupt = 0
        self._retry_at, self._failures = 0.0, 0  # in a row
        self._warned_at = -WARN_EVERY

    def __repr__(self) -> str:
        return f"RedisCache({self._name!r})"

    async def ready(self) -> None:
        """See `ScoreCache.ready`. Afterwards there is a connection, so that the first request finds it made."""
        begin = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(max(self._timeout, begin + READY_SECONDS - time.monotonic())):
                    await self._client.ping()
                return
            except _FAULTS as error:
                fault = error
            if isinstance(fault, AuthenticationError) or time.monotonic() - begin >= READY_SECONDS:
                break  # a wrong password does not become right
            await asyncio.sleep(READY_AGAIN)
        self.fault(fault if str(fault) else TimeoutError(f"no response within {READY_SECONDS:g} s"))

    async def get(self, keys: Sequence[str]) -> list[float | None]:
        if not keys:
            return []
        stored = await self._asked(lambda: self._stored(keys))
        if stored is None:
            self._misses += len(keys)
            return [None] * len(keys)
        values = [decode(key, one) for key, one in zip(keys, stored, strict=True)]
        found = sum(value is not None for value in values)
        self._hits += found
        self._misses += len(keys) - found
        self._corrupt += sum(one is not None for one in stored) - found
        return values

    async def put(self, values: Mapping[str, float]) -> None:
        check_finite(values)
        if not values:
            return
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(PREFIX + key, encode(key, value), ex=KEPT_SECONDS)
        await self._asked(pipeline.execute)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(self._hits, self._misses, self._faults, self._corrupt, int(self._failures > 0))

    async def close(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.aclose()
        except _FAULTS as error:
            logger.debug("score_cache_not_closed", server=self._name, reason=str(error))
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def _stored(self, keys: Sequence[str]) -> list[Any]:
        stored = await self._client.mget([PREFIX + key for key in keys])
        if not isinstance(stored, list) or len(stored) != len(keys):
            raise ValueError(f"expected {len(keys)} values, got {stored!r:.80}")
        return stored

    async def _asked(self, request: Callable[[], Awaitable[Any]]) -> Any | None:
        """The server's response; None after a fault, and during the backoff that follows."""
        async with self._turn:
            now = time.monotonic()
            if now < self._retry_at:
                return None
            trying = self._failures > 0
            if trying:
                self._retry_at = now + self._delay()  # the others do not wait for this one
            try:
                async with asyncio.timeout(self._timeout):
                    response = await request()
            except _FAULTS as error:
                if not str(error):  # asyncio's own
                    error = TimeoutError(f"no response within {self._timeout:g} s")
                self.fault(error, again=trying)
                return None
            self._answered()
            return response

    def fault(self, error: Exception, again: bool = False) -> None:
        """Counts a fault, backs off for a while and logs it."""
        self._faults += 1
        # Requests that were under way at the same time fail together: one fault, as far as the delay goes.
        if again or self._failures == 0:
            self._failures += 1
            self._retry_at = time.monotonic() + self._delay()
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            advice = (
                f"If it should be there, see redis.url, redis.timeout and {PASSWORD_VARIABLE}."
                if self._server is None
                else "It is the run's own and starts again by itself."
            )
            logger.warning(
                "score_cache_away",
                reason=(
                    f"The score cache at {self._name} does not respond ({type(error).__name__}: {error}). "
                    "Scoring goes on "
                    f"without it, and it is asked again from time to time. {advice}"
                ),
            )

    def _answered(self) -> None:
        if self._failures:
            logger.warning("score_cache_back", reason=f"The score cache at {self._name} responds again.")
        self._retry_at, self._failures = 0.0, 0

    def _delay(self) -> float:
        return backoff(self._failures, FIRST_DELAY, LONGEST_DELAY)


def open_redis(config: RedisConfig, folder: Path | None) -> RedisCache:
    """On a server of its own (mode embedded) or a shared one (mode url), see `rewards.cache.open`."""
    if config.mode == "embedded":
        server = EmbeddedValkey(None if folder is None else folder / "score_cache", config.max_megabytes)
        server.start()
        return RedisCache(server.url, "", config.timeout, server)
    return RedisCache(config.url, os.environ.get(PASSWORD_VARIABLE, ""), config.timeout)


def _shown(url: str) -> str:
    """The address without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
