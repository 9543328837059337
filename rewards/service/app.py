"""The service as an ASGI application: routes, errors as sentences, and the middleware that every request passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.rewards import RewardsConfig, ServiceConfig
from rewards.service.access import Access
from rewards.service.body import EXAMPLE, Problem, ScoreRequest, ScoreResponse
from rewards.service.incoming import Refusable
from rewards.service.metrics import Metrics
from rewards.service.queue import Admission
from rewards.service.refusal import Refusal
from rewards.service.scoring import ScoreDesk, Scoring

SENTENCES = {
    404: "Unknown path; scores are at POST /v1/score, the service's state at /healthz, /readyz and /metrics.",
    405: "This path does not accept the method; see the Allow header.",
    413: "The body is longer than service.max_body_megabytes allows; send several requests.",
    500: "Internal error; see the log of the service.",
    503: "The service is shutting down; try again once it is back.",
}
TWO_LENGTHS = "A request must have Content-Length or Transfer-Encoding, not both: they contradict each other."
STATUSES = {
    400: "The body is not JSON, or its length is announced twice.",
    401: "The token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "Too much: bytes, images, pixels, characters or values.",
    415: "The body is not JSON, or it is compressed.",
    421: "The Host header names another machine.",
    422: "A field is missing or wrong, or an image or mask is not what it must be.",
    429: "The queue is full; see Retry-After.",
    503: "No scores at present: the judges are down, or the request timed out.",
    504: "Scoring took too long.",
}


def create_app(rewards: RewardsConfig, service: ServiceConfig, scoring: Scoring, access: Access) -> ASGIApp:
    """The whole service over a started pool.

    Args:
        rewards: for the weights.
        service: for the limits.
        scoring: what scores.
        access: who may call it.
    """
    admission = Admission(service.queue)
    judges = rewards.judge.configured
    metrics = Metrics(admission, judges)
    desk = ScoreDesk(rewards, service, scoring, admission, metrics)
    max_body = service.max_body_megabytes * 2**20

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    api = FastAPI(
        title="Locus rewards",
        description="Scores edited images: was the instruction followed, and did everything else stay as it was?",
        lifespan=lifespan,
        max_body_size=max_body,
        openapi_url="/openapi.json" if access.loopback else None,
        redoc_url=None,
        exception_handlers={Refusal: _refused, HTTPException: _plain, ClientDisconnect: _gone, Exception: _failed},
    )
    _routes(api, desk, metrics, admission, scoring, judges)
    return Entrance(api, access, metrics, max_body)


def _routes(
    api: FastAPI, desk: ScoreDesk, metrics: Metrics, admission: Admission, scoring: Scoring, judges: Sequence[str]
) -> None:
    schema = ScoreRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs")

    @api.post(
        "/v1/score",
        response_model=ScoreResponse,
        summary="Scores of one or many candidates",
        responses={status: {"model": Problem, "description": what} for status, what in STATUSES.items()},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ScoreRequest"}, "example": EXAMPLE}
                },
            }
        },
    )
    async def score(request: Request) -> Response:
        response = await desk.response(request)
        return Response(response.model_dump_json(), media_type="application/json")

    @api.get(
        "/healthz",
        summary="Whether the service is alive",
        response_model=None,
        responses={503: {"description": "The reward pool has ended; the service must be started again."}},
    )
    async def healthz() -> JSONResponse:
        if scoring.alive:
            return JSONResponse({"status": "alive"})
        return JSONResponse({"status": "the reward pool has ended: start the service again"}, 503)

    @api.get(
        "/readyz",
        summary="Whether scores can be had",
        response_model=None,
        responses={503: {"description": "A judge has no server that responds, or a scorer of your own no process."}},
    )
    async def readyz() -> JSONResponse:
        numbers = await scoring.statistics()
        rotation = {name: int(numbers.get(f"{name}_in_rotation", 0)) for name in judges}
        own = dict(scoring.own_scorers())
        state = {
            "ready": all(rotation.values()) and all(own.values()),
            "judges": rotation,  # servers that respond
            "scorers": own,  # whether there is a process that can score; one that was lost is being replaced
            "cache": {key.removeprefix("cache_"): int(numbers[key]) for key in numbers if key.startswith("cache_")},
            "queue": {"taken": admission.taken, "places": admission.slots},
        }
        return JSONResponse(state, 200 if state["ready"] else 503)

    @api.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(await scoring.statistics()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    described = api.openapi

    def openapi() -> dict[str, Any]:
        page = described()
        # The body is read by hand (in its turn, in time, in a thread), so FastAPI does not know its form.
        page["components"]["schemas"].update({**parts, "ScoreRequest": schema})
        return page

    api.openapi = openapi  # type: ignore[method-assign]


class Entrance:
    """Middleware for every request: access, announced size, and metrics of the outcome."""

    def __init__(self, inner: ASGIApp, access: Access, metrics: Metrics, max_body: int) -> None:
        self._inner, self._access, self._metrics, self._max_body = inner, access, metrics, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        start, status, seconds = monotonic(), 0, None
        headers = Headers(scope=scope)
        request = Refusable(headers, receive, send, self._max_body)

        async def noted(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], monotonic() - start
            await request.send(message)

        try:
            self._access.check(scope["path"], headers)
            # Such a body comes in chunks, however short it says that it is; proxies may read it the other way.
            if "content-length" in headers and "transfer-encoding" in headers:
                raise Refusal(400, TWO_LENGTHS)
            if int(headers.get("content-length", "0")) > self._max_body:
                raise Refusal(413, SENTENCES[413])
            await self._inner(scope, request.receive, noted)
        except Refusal as refusal:
            await _response(refusal)(scope, receive, noted)
        except asyncio.CancelledError:  # the server is stopping and has waited long enough
            if status:
                raise
            status = 503
            await _response(Refusal(503, SENTENCES[503], 10))(scope, receive, send)
        finally:
            self._metrics.answered(scope["path"], status, monotonic() - start if seconds is None else seconds)


def _response(refusal: Refusal) -> JSONResponse:
    return JSONResponse({"detail": refusal.sentence}, refusal.status, headers=dict(refusal.headers))


async def _refused(_: Request, refusal: Refusal) -> Response:
    return _response(refusal)


async def _plain(_: Request, error: HTTPException) -> Response:
    return JSONResponse(
        {"detail": SENTENCES.get(error.status_code, error.detail)}, error.status_code, headers=error.headers
    )


async def _gone(_: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # for the metrics; the client is gone


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": SENTENCES[500]}, 500)
