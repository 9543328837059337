"""A service for tests: real uvicorn on a real socket over a pool from a script, and requests without a library."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from configs.schema import RunConfig
from editing.task import EditTask
from rewards.result import Score
from rewards.service.access import Access, bind
from rewards.service.app import create_app
from rewards.service.server import make_server

TOKEN = "a-token-of-more-than-thirty-two-characters"


@dataclass
class ScriptedPool:
    """Scores by a function of the task and the images; `held` keeps every request waiting until it is set, and
    `lingers` is how many seconds it takes to give one up."""

    scores: Callable[[EditTask, np.ndarray], Mapping[str, tuple[Score, ...]]]
    numbers: dict[str, float] = field(default_factory=dict)
    held: threading.Event = field(default_factory=threading.Event)
    lingers: float = 0.0
    asked: list[tuple[EditTask, np.ndarray]] = field(default_factory=list)
    begun: int = 0
    given_up: int = 0
    alive: bool = True

    async def score_task(self, task: EditTask, images: np.ndarray) -> Mapping[str, tuple[Score, ...]]:
        self.begun += 1
        try:
            while not self.held.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.given_up += 1
            await asyncio.sleep(self.lingers)
            raise
        self.asked.append((task, images))
        return self.scores(task, images)

    async def statistics(self) -> Mapping[str, float]:
        return self.numbers

    def own_scorers(self) -> Mapping[str, bool]:
        return {}


def brightness(task: EditTask, images: np.ndarray) -> Mapping[str, tuple[Score, ...]]:
    """Two components: mean grey level, and passes; black images are an error of the second."""
    means = [float(image.mean()) for image in images]
    return {
        "background_psnr": tuple(Score(value=mean) for mean in means),
        "editscore": tuple(
            Score(value=0.5, passes=(0.25, 0.75)) if mean else Score(error="editscore: it is black") for mean in means
        ),
    }


def config(**service: Any) -> RunConfig:
    """Weights 0.1 and 2 for the components of `brightness`."""
    return RunConfig(
        service=service,
        rewards={
            "weights": {"background_psnr": 0.1, "editscore": 2.0},
            "judge": {"editscore": {"urls": ["http://127.0.0.1:9"]}},
        },
    )


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The sentence of a refusal."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"detail"} and self.json["detail"].endswith(".")
        return self.json["detail"]


@dataclass(frozen=True)
class Client:
    """Asks a service; `headers` go with every request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, **options: Any
    ) -> HttpResponse:
        connection = http.client.HTTPConnection(urlsplit(self.url).hostname, self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **headers}, **options)
            got = connection.getresponse()
            return HttpResponse(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> HttpResponse:
        return self.ask("GET", path, headers=headers)

    def score(self, request: Any = None, headers: Mapping[str, str] = {}, **changes: Any) -> HttpResponse:
        """Posts a request (a small one with `changes`), or the bytes given."""
        body = request if isinstance(request, bytes) else json.dumps(request or small_request(**changes)).encode()
        return self.ask("POST", "/v1/score", body, {"Content-Type": "application/json", **headers})


def encoded(image: Any, kind: str = "PNG", **options: Any) -> str:
    """An array or PIL image as a file in base64."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


SOURCE = np.random.default_rng(0).integers(1, 256, (6, 9, 3), dtype=np.uint8)
MASK = np.zeros((6, 9), dtype=bool)
MASK[1:4, 2:5] = True


def small_request(**changes: Any) -> dict[str, Any]:
    """A 6 × 9 source, itself and black as candidates, and a mask."""
    return {
        "source": encoded(SOURCE),
        "edited": [encoded(SOURCE), encoded(np.zeros_like(SOURCE))],
        "instruction": "make it black",
        "mask": {"png": encoded(np.where(MASK, 255, 0).astype(np.uint8)), "polarity": "edit_is_white"},
        **changes,
    }


@contextmanager
def serving(
    pool: ScriptedPool | None = None,
    settings: RunConfig | None = None,
    token: str | None = None,
    loopback: bool = True,
    release: bool = True,
) -> Iterator[tuple[Client, ScriptedPool]]:
    """A running service; without a pool over one that responds at once. At its end requests that are `held` are let go,
    unless `release` is False."""
    if pool is None:
        pool = ScriptedPool(brightness)
        pool.held.set()
    access = Access("127.0.0.1", "127.0.0.1", loopback, token)
    bound = bind(access, 0)
    settings = settings or config()
    server = make_server(create_app(settings.rewards, settings.service, pool, access), "")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    until(lambda: server.started)
    try:
        yield Client(f"http://127.0.0.1:{bound.getsockname()[1]}"), pool
    finally:
        if release:
            pool.held.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)


def in_threads(count: int, work: Callable[[], HttpResponse]) -> tuple[list[threading.Thread], list[HttpResponse]]:
    """`count` threads that each ask once; join them before looking at the responses."""
    responses: list[HttpResponse] = []
    threads = [threading.Thread(target=lambda: responses.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, responses


def metric(client: Client, line: str) -> float:
    """The value of one line of /metrics; 0 where there is none yet."""
    found = [
        float(text.rpartition(" ")[2])
        for text in client.get("/metrics").body.decode().splitlines()
        if text.startswith(line + " ")
    ]
    return found[0] if found else 0.0
