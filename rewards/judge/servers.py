"""The servers of one judge: which are in rotation, and how failed ones return to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import structlog

from configs.addresses import judge_address
from configs.judges import JudgeConfig
from locus.common.backoff import jittered_backoff
from rewards.judge.messages import JudgeRefused, JudgeUnavailable
from rewards.judge.replica import Replica
from rewards.judge.retries import ServerFault
from rewards.judge.rotation import Rotation

FIRST_HOLD, LONGEST_HOLD = 0.25, 8.0
"""Seconds for which a server that says 429 without a time is left alone."""
FIRST_PROBE, LONGEST_PROBE = 0.5, 15.0
"""Seconds before a server that failed is probed."""

logger = structlog.get_logger(__name__)


class Servers:
    """Keeps every server either in rotation, or under a probe that brings it there.

    Probes run in background tasks, one per server that is out, with growing random delays. `close` ends them.
    """

    def __init__(self, judge: str, model: str, config: JudgeConfig, api_key: str) -> None:
        self.rotation: Rotation[Replica] = Rotation(config.patience)
        self.started = False
        self._judge, self._model, self._config, self._api_key = judge, model, config, api_key
        self._replicas: dict[str, Replica] = {}
        self._tasks: dict[Replica, asyncio.Task[None]] = {}  # probes, and ends of servers that are no longer ours
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._replicas)

    async def start(self) -> None:
        """See `JudgePool.start`; closes on failure."""
        if not self._replicas:
            raise JudgeUnavailable(
                f"{self._judge}: no server is configured; set rewards.judge.{self._judge}.urls or "
                f"rewards.judge.{self._judge}.serve.replicas"
            )
        self.started = True
        for replica in self._replicas.values():
            self._bring_back(replica, 0.0)
        try:
            async with asyncio.timeout(self._config.patience):
                while (out := self._out()) and not any(replica.hopeless for replica in out):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            logger.error("judge servers did not respond in time", judge=self._judge, seconds=self._config.patience)
        if missing := len(self._out()):
            reasons = self.reasons()
            await self.close()
            raise JudgeUnavailable(
                f"{self._judge}: {missing} of {len(self._replicas)} servers did not respond to a test image. {reasons}"
            )
        logger.info("judge ready", judge=self._judge, servers=len(self._replicas))

    def in_rotation(self) -> list[Replica]:
        """The servers that get requests at the moment."""
        return [replica for replica in self._replicas.values() if replica in self.rotation]

    def set(self, urls: Sequence[str]) -> None:
        """See `JudgePool.set_urls`."""
        wanted = list(dict.fromkeys(judge_address(url) for url in urls))
        for url in [url for url in self._replicas if url not in wanted]:
            gone = self._replicas.pop(url)
            self.rotation.leave(gone)
            if self.started:
                self._run(gone, self._retire(gone))
        for url in wanted:
            if url not in self._replicas:
                self._replicas[url] = Replica(url, self._model, self._config.concurrency, self._api_key)
                if self.started:
                    self._bring_back(self._replicas[url], 0.0)
        self._changed.set()

    def answered(self, replica: Replica) -> None:
        """The server responded, which ends its row of failures."""
        replica.failures = 0

    def failed(self, replica: Replica, fault: ServerFault) -> None:
        """What a failed request says of the server; requests that fail together say it once."""
        now = asyncio.get_running_loop().time()
        if replica not in self.rotation or (fault.fate == "busy" and replica.held_until > now):
            return
        replica.failures += 1
        replica.why = str(fault)
        pause = min(fault.retry_after or 0.0, self._config.patience)
        if fault.fate == "busy":
            self.rotation.hold(replica, pause or jittered_backoff(replica.failures, FIRST_HOLD, LONGEST_HOLD))
            return
        self.rotation.leave(replica)
        logger.warning(
            "judge server left the rotation",
            judge=self._judge,
            server=replica.url,
            why=replica.why,
            left=len(self.rotation),
        )
        self._bring_back(replica, max(pause, jittered_backoff(replica.failures, FIRST_PROBE, LONGEST_PROBE)))

    def reasons(self) -> str:
        """One sentence per server that is not in rotation: why."""
        return " ".join(f"{replica.url}: {replica.why}." for replica in self._out())

    async def close(self) -> None:
        """Ends probes and connections; requests that wait get `NoServer`."""
        self.rotation.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in {*self._replicas.values(), *self._tasks}:
            await replica.close()
        self._tasks.clear()

    def _out(self) -> list[Replica]:
        return [replica for replica in self._replicas.values() if replica not in self.rotation]

    def _bring_back(self, replica: Replica, delay: float) -> None:
        self._run(replica, self._probe(replica, delay))

    def _run(self, replica: Replica, work: Coroutine[None, None, None]) -> None:
        """The one background task of a server."""
        if replica in self._tasks:
            self._tasks[replica].cancel()
        task = asyncio.create_task(work, name=f"{self._judge} {replica.url}")
        task.add_done_callback(_raise_in_loop)
        self._tasks[replica] = task

    async def _probe(self, replica: Replica, delay: float) -> None:
        """Probes a server until it responds, then lets it into the rotation."""
        while True:
            await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(self._config.deadline):
                    await replica.probe()
            except ServerFault as fault:
                why, replica.hopeless = str(fault), fault.fate == "wrong"
            except JudgeRefused as refused:
                why, replica.hopeless = str(refused), True
            except TimeoutError:
                why = f"no response to a test image within {self._config.deadline:g} s (rewards.judge.deadline)"
            else:
                break
            if why != replica.why:
                logger.info(
                    "judge server does not respond to a test image", judge=self._judge, server=replica.url, why=why
                )
            replica.why = why
            replica.failures += 1
            self._changed.set()
            delay = jittered_backoff(replica.failures, FIRST_PROBE, LONGEST_PROBE)
        del self._tasks[replica]
        self.rotation.enter(replica)
        self._changed.set()
        logger.info("judge server is in rotation", judge=self._judge, server=replica.url)

    async def _retire(self, replica: Replica) -> None:
        """Closes a server that is no longer ours once it has finished what it has."""
        while replica.outstanding:
            await asyncio.sleep(0.1)
        await replica.close()
        del self._tasks[replica]


def _raise_in_loop(task: asyncio.Task[None]) -> None:
    """A defect in a background task is reported at once, not when the task is collected."""
    if not task.cancelled():
        task.result()
