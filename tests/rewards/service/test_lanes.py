"""Tests of rewards.service.lanes over real HTTP: small requests are served while large ones are still open."""

import json
import socket
import threading
from contextlib import contextmanager

import numpy as np

from rewards.offline.command import NO_TASKS
from rewards.pool import RewardPool
from rewards.result import Score
from rewards.service import incoming, scoring
from rewards.service.lanes import BODIES, BODIES_OF_A_CLIENT, small_pixels
from rewards.service.pool_thread import PoolThread
from tests.rewards.service.running import config, encoded, in_threads, metric, serving, small_request, until

HEIGHT, WIDTH = 20, 40
LIMITS = {"max_body_megabytes": 1, "max_total_megapixels": 4 * HEIGHT * WIDTH / 1e6}
"""All pixels are those of two large requests; those of a small one are far less than a sixteenth."""


def large_request() -> dict:
    image = encoded(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    return {"source": image, "edited": [image], "mask": {"rle": {"size": [HEIGHT, WIDTH], "counts": [0, 10, 790]}}}


def tiny_request() -> dict:
    image = encoded(np.zeros((7, 7, 3), dtype=np.uint8))
    return small_request(source=image, edited=[image], mask={"rle": {"size": [7, 7], "counts": [0, 10, 39]}})


class Held:
    """Work that goes on for large images until it is released."""

    def __init__(self, work) -> None:
        self._work, self.begun, self.released = work, 0, threading.Event()

    def __call__(self, given, *more):
        if given.pixels >= HEIGHT * WIDTH:
            self.begun += 1
            assert self.released.wait(60)
        return self._work(given, *more)


def ones(given):
    return [Score(value=1.0)] * len(given.images)


@contextmanager
def computing(scorer):
    """The service over a pool that computes both components itself."""
    settings = config(**LIMITS)

    def opened() -> RewardPool:
        return RewardPool(
            settings.rewards,
            NO_TASKS,
            {"background_psnr": scorer, "editscore": ones},
            small_pixels=small_pixels(settings.service),
        )

    with PoolThread(opened) as pool, serving(pool, settings, release=False) as (client, _):
        yield client


def small_ones_are_served_meanwhile(client, held: Held, count: int, begun: int) -> None:
    """Asks as many large requests, and small ones once so many large ones are held."""
    threads, responses = in_threads(count, lambda: client.score(small_request(**large_request())))
    try:
        until(lambda: held.begun == begun and metric(client, "locus_queue_taken") == count)
        for _ in range(3):
            assert client.score(tiny_request()).json["rewards"] == [2.1]
        assert not responses and metric(client, "locus_queue_taken") == count
    finally:
        held.released.set()
        for thread in threads:
            thread.join()
    assert [response.status for response in responses] == [200] * count


def test_beside_large_images_that_are_scored_and_that_wait_for_pixels():
    scorer = Held(ones)
    with computing(scorer) as client:
        small_ones_are_served_meanwhile(client, scorer, count=4, begun=1)


def test_beside_large_images_that_are_decoded(monkeypatch):
    decode = Held(scoring.decode)
    monkeypatch.setattr(scoring, "decode", decode)
    with computing(ones) as client:
        small_ones_are_served_meanwhile(client, decode, count=3, begun=2)


def test_beside_large_bodies_that_take_all_the_memory_for_them():
    head = (
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % 2**20
    )
    addresses = [f"127.0.0.{1 + number // BODIES_OF_A_CLIENT}" for number in range(BODIES + 2)]
    with computing(ones) as client:
        many = [
            socket.create_connection(("127.0.0.1", client.port), source_address=(address, 0)) for address in addresses
        ]
        for connection in many:
            connection.sendall(head + b" " * incoming.FIRST_PIECE)
        until(lambda: metric(client, "locus_queue_taken") == len(many))
        assert client.score(json.dumps(tiny_request()).encode()).json["rewards"] == [2.1]
        assert metric(client, "locus_queue_taken") == len(many)
        for connection in many:
            connection.close()
