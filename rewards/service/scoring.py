"""One request, from its body to its scores: wait for a slot, read, check, decode, score."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from configs.rewards import RewardsConfig, ServiceConfig
from configs.text import one_line
from editing.task import EditTask
from rewards.compose import compose
from rewards.gated import Gate
from rewards.judge.messages import JudgesDown
from rewards.result import GroupScores, Score
from rewards.service.body import ComponentScore, ScoreResponse, parse
from rewards.service.decode import Parcel, decode, unpack
from rewards.service.incoming import FIRST_PIECE, Incoming
from rewards.service.lanes import Lane, Lanes
from rewards.service.metrics import Metrics
from rewards.service.queue import Admission
from rewards.service.refusal import Refusal
from rewards.threads import in_thread

T = TypeVar("T")


class Scoring(Protocol):
    """What the service needs of a reward pool."""

    async def score_task(self, task: EditTask, images: NDArray[np.uint8]) -> Mapping[str, tuple[Score, ...]]:
        """Scores of images uint8 [G, H, W, 3] by component."""
        ...

    async def statistics(self) -> Mapping[str, float]:
        """See `rewards.pool.RewardPool.statistics`."""
        ...

    @property
    def alive(self) -> bool:
        """Whether there will be scores and statistics at all."""
        ...

    def own_scorers(self) -> Mapping[str, bool]:
        """See `rewards.pool.RewardPool.own_scorers`."""
        ...


class ScoreDesk:
    """Takes requests to be scored, within every limit of `service`."""

    def __init__(
        self, rewards: RewardsConfig, limits: ServiceConfig, scoring: Scoring, admission: Admission, metrics: Metrics
    ) -> None:
        self._rewards, self._limits, self._scoring = rewards, limits, scoring
        self._admission, self._metrics = admission, metrics
        self._max_body = limits.max_body_megabytes * 2**20
        self._lanes = Lanes(limits)
        self._numbers = count(1)

    async def response(self, request: Request) -> ScoreResponse:
        """The scores that the request asks for.

        Raises:
            Refusal: with the reason, when there are none.
            ClientDisconnect: when the client has disconnected.
        """
        _refuse_other_types(request)
        declared = min(int(request.headers.get("content-length", self._max_body)), self._max_body)
        incoming = Incoming(request)
        await incoming.first(min(declared, FIRST_PIECE))
        with self._admission.slot():
            stage = "waiting for its turn"
            try:
                async with asyncio.timeout(self._limits.deadline) as limit, AsyncExitStack() as body_held:
                    # No more of a body is read before there is room for all of it; until then it waits at the client.
                    client = request.client.host if request.client else ""
                    lane = self._lanes.of_body(declared)
                    await body_held.enter_async_context(lane.bodies.hold(client, declared))
                    parcel = await self._received(incoming, lane)
                    lane = self._lanes.of_pixels(parcel.total_pixels)
                    async with lane.pixels.hold(parcel.total_pixels):
                        task, images = await in_thread(lane.threads, decode, parcel, f"request {next(self._numbers)}")
                        del parcel
                        await body_held.aclose()
                        stage = "being scored"
                        components = await _while_connected(request, self._scoring.score_task(task, images))
            except TimeoutError:
                if not limit.expired():
                    raise
                raise Refusal(
                    504 if stage == "being scored" else 503,
                    f"The request was still {stage} after {self._limits.deadline:g} s (service.deadline); try again "
                    "later or with fewer images.",
                    self._admission.retry_after,
                ) from None
            except JudgesDown as error:
                raise Refusal(
                    503, f"The judges give no scores: {one_line(str(error), 300)}", self._admission.retry_after
                ) from None
        self._metrics.scored(components)
        return _response(components, self._rewards)

    def close(self) -> None:
        """Ends the threads."""
        self._lanes.close()

    async def _received(self, incoming: Incoming, lane: Lane) -> Parcel:
        body = await incoming.whole()

        def opened() -> Parcel:
            return unpack(parse(body), self._limits)

        return await in_thread(lane.threads, opened)


def _refuse_other_types(request: Request) -> None:
    media, _, _ = request.headers.get("content-type", "").partition(";")
    if media.strip().lower() != "application/json":
        raise Refusal(
            415,
            "The body must be JSON with the header 'Content-Type: application/json', not pickle or form "
            f"data; got {one_line(media.strip()) or 'no type'!r}.",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(415, f"The body must not be compressed; got Content-Encoding {one_line(encoding)!r}.")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; when the client goes away first the work is cancelled, so that it frees its slot."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body is read: only the end of the connection can come
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _response(components: Mapping[str, tuple[Score, ...]], rewards: RewardsConfig) -> ScoreResponse:
    (reward,) = compose([GroupScores("", 0, components, 0.0)], rewards.weights, "none", gate=Gate.of(rewards))
    return ScoreResponse(
        components={
            name: [
                ComponentScore(
                    value=score.value,
                    error=None if score.error is None else one_line(score.error, 500),
                    passes=list(score.passes),
                )
                for score in scores
            ]
            for name, scores in components.items()
        },
        rewards=[
            value if valid else None
            for value, valid in zip(reward.rewards.tolist(), reward.valid.tolist(), strict=True)
        ],
    )
