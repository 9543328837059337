"""The servers of one judge behind one interface: attempts, deadlines and failure limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from configs.judges import JudgeConfig
from locus.common.backoff import jittered_backoff
from rewards.judge.limits import FailureLimits
from rewards.judge.messages import JudgeRefused, JudgeRequest, JudgeResponse, JudgeUnavailable
from rewards.judge.protocol import Reply
from rewards.judge.replica import Replica
from rewards.judge.retries import ServerFault
from rewards.judge.rotation import NoServer
from rewards.judge.servers import Servers
from rewards.judge.statistics import JudgeStatistics, Tally

FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0
"""Seconds before a request is sent again."""

T = TypeVar("T")

logger = structlog.get_logger(__name__)


class JudgePool:
    """A `Judge` over any number of OpenAI-compatible servers. Belongs to the event loop that `start` ran in.

    A request goes to the server in rotation with the fewest outstanding requests, and waits while all are full. An
    attempt that fails is followed by another, on whichever server is then the least busy, after a growing random
    delay. A server that breaks a connection, takes longer than the deadline or says 5xx leaves the rotation; probes
    in the background bring it back. One that says 429 stays, and gets nothing for as long as it asks.

    What a request can cost: its time starts when it is first sent and ends after `patience` seconds or `attempts`
    attempts. Before that it waits in the queue, however long that is, but not longer than until no server was in
    rotation for `patience` seconds.
    """

    def __init__(self, name: str, urls: Sequence[str], model: str, config: JudgeConfig, api_key: str) -> None:
        """
        Args:
            name: the judge, editscore or qwen_vl.
            urls: addresses such as http://127.0.0.1:8000/v1; they may come later, with `set_urls`.
            model: name under which the servers serve it.
            api_key: sent to every server, shown nowhere.

        Raises:
            ValueError: when a URL is invalid, or has a password in it.
        """
        self.name = name
        self._config = config
        self._servers = Servers(name, model, config, api_key)
        self._limits = FailureLimits(name, config.max_unanswered, config.max_bad_answers)
        self._tally = Tally()
        self._tokens: dict[str, tuple[int, ...]] = {}
        self._in_flight: set[asyncio.Timeout] = set()
        self._closed = False
        self.set_urls(urls)

    async def start(self) -> None:
        """Returns when every server has responded to a test image.

        Raises:
            JudgeUnavailable: when one did not within `patience`, or said that it never will; names each that did not,
                and why. The pool is closed then.
        """
        await self._servers.start()

    async def ask(self, request: JudgeRequest) -> JudgeResponse:
        """See `Judge.ask`.

        Raises:
            RuntimeError: before `start`.
        """

        async def send(replica: Replica) -> tuple[str, Reply]:
            return replica.url, await replica.complete(request)

        (server, reply), seconds = await self._answered(send)
        self._tally.seconds.append(seconds)
        return JudgeResponse(reply.text, reply.finish_reason, reply.logprobs, server, seconds, reply.field)

    async def token_ids(self, text: str) -> tuple[int, ...]:
        """See `Judge.token_ids`; asked once per text. Raises as `ask`."""
        if text not in self._tokens:
            self._tokens[text], _ = await self._answered(lambda replica: replica.tokens(text))
        return self._tokens[text]

    async def rehearse(self, request: JudgeRequest) -> None:
        """See `Judge.rehearse`. Other failures are left to the real requests, which are retried."""

        async def one(replica: Replica) -> None:
            try:
                async with self._bounded(self._config.deadline):
                    await replica.complete(request)
            except (ServerFault, TimeoutError) as fault:
                logger.warning(
                    "judge server did not respond to a rehearsal",
                    judge=self.name,
                    server=replica.url,
                    why=str(fault) or f"no response within {self._config.deadline:g} s",
                )

        await asyncio.gather(*map(one, self._servers.in_rotation()))

    def note(self, usable: bool, why: str = "") -> None:
        """See `Judge.note`."""
        if not usable:
            self._tally.bad += 1
        self._limits.noted(usable, why)

    def set_urls(self, urls: Sequence[str]) -> None:
        """The servers from now on. A new one gets requests once a probe has succeeded; one that is gone gets no
        more, and may finish what it has.

        Raises:
            ValueError: when a URL is invalid, or has a password in it.
        """
        self._servers.set(urls)

    def statistics(self) -> JudgeStatistics:
        return self._tally.statistics(in_rotation=len(self._servers.rotation))

    async def close(self) -> None:
        """Ends probes and requests; requests that wait or are being worked on get `JudgeUnavailable`."""
        self._closed = True
        self._servers.rotation.close()  # first, or slots that become free would go to requests that wait
        while self._in_flight:
            for cut in self._in_flight:
                if not cut.expired():
                    cut.reschedule(0.0)
            await asyncio.sleep(0.005)  # until they have taken notice
        await self._servers.close()

    async def _answered(self, send: Callable[[Replica], Awaitable[T]]) -> tuple[T, float]:
        """The outcome of a request, and the seconds since it was first sent; counted against the limits."""
        if not self._servers.started:
            raise RuntimeError(f"{self.name}: JudgePool.start comes before the first request")
        self._tally.asked += 1
        try:
            found = await self._tried(send)
        except JudgeUnavailable as error:
            if not self._closed:
                self._tally.unanswered += 1
                self._limits.unanswered(str(error))
            raise
        except JudgeRefused as error:
            self._tally.refused += 1
            self._limits.noted(False, str(error))
            raise
        self._tally.answered += 1
        self._limits.answered()
        return found

    async def _tried(self, send: Callable[[Replica], Awaitable[T]]) -> tuple[T, float]:
        """Attempts until one succeeds; raises JudgeUnavailable when it is time to give up."""
        clock, rotation = asyncio.get_running_loop().time, self._servers.rotation
        patience, attempts = self._config.patience, self._config.attempts
        first_sent, sent, last = 0.0, 0, ""
        while sent < attempts:
            try:
                if sent:
                    async with self._bounded(first_sent + patience - clock()):
                        await asyncio.sleep(jittered_backoff(sent, FIRST_DELAY, LONGEST_DELAY))
                replica = await rotation.take(first_sent + patience if sent else None)
            except (NoServer, TimeoutError):
                break
            if sent:
                self._tally.retries += 1
            else:
                first_sent = clock()
            sent += 1
            try:
                found = await self._sent(send, replica, first_sent + patience - clock())
            except ServerFault as fault:
                last = f" The last attempt: {replica.url}: {fault}."
                self._servers.failed(replica, fault)
            except TimeoutError:
                last = f" The last attempt: {replica.url}: no response before the request's time was over."
                break
            else:
                self._servers.answered(replica)
                return found, clock() - first_sent
            finally:
                rotation.release(replica)
        if self._closed:
            raise JudgeUnavailable(f"{self.name}: the pool was closed before a response arrived")
        raise JudgeUnavailable(
            f"{self.name}: no response in {sent} of {attempts} attempts (rewards.judge.attempts) within {patience:g} s "
            f"(rewards.judge.patience), {len(rotation)} of {len(self._servers)} servers in rotation."
            f"{last} {self._servers.reasons()}".rstrip()
        )

    async def _sent(self, send: Callable[[Replica], Awaitable[T]], replica: Replica, left: float) -> T:
        """One attempt.

        Raises:
            TimeoutError: when the request's time is over (`left` seconds) or the pool was closed: no fault of the
                server.
        """
        deadline = self._config.deadline
        try:
            async with self._bounded(min(deadline, left)):
                return await send(replica)
        except TimeoutError:
            if self._closed or left < deadline:
                raise
            raise ServerFault(f"no response within {deadline:g} s (rewards.judge.deadline)", "failed") from None

    @asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        """TimeoutError in the body after so long, or at once when the pool is closed."""
        async with asyncio.timeout(seconds) as cut:
            self._in_flight.add(cut)
            try:
                yield
            finally:
                self._in_flight.discard(cut)
