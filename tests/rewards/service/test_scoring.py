"""Tests of rewards.service.scoring over real HTTP: limits, waiting, time, and clients and judges that go away."""

import http.client
import json
import socket
import threading
import time
import tracemalloc

import numpy as np
import pytest

from rewards.judge.messages import JudgesDown
from rewards.result import Score
from rewards.service import incoming, lanes, scoring, server
from tests.rewards.service.running import (
    ScriptedPool,
    brightness,
    config,
    encoded,
    in_threads,
    metric,
    serving,
    small_request,
    until,
)

HEAD = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LARGE_BODY = json.dumps(small_request()).encode().ljust(2**19)
"""A small request that takes half of the smallest limit."""


def test_a_body_that_is_too_long_is_413_whatever_its_length_says():
    with serving(settings=config(max_body_megabytes=1)) as (client, pool):
        declared = client.score(b" " * (2**20 + 1))
        assert declared.status == 413 and "service.max_body_megabytes" in declared.detail

        def pieces():
            for _ in range(3):
                yield b" " * 2**19

        chunked = client.ask("POST", "/v1/score", pieces(), {"Content-Type": "application/json"}, encode_chunked=True)
        assert chunked.status == 413 and chunked.detail == declared.detail
        # Shorter than it is: the rest is no request, and is refused as such.
        response = client.score(b"{}" + b" " * 100, {"Content-Length": "2"})
        assert response.status == 422
        assert pool.begun == 0
        assert client.score().status == 200


def test_a_body_is_let_go_of_before_its_images_are_scored():
    """Its memory is no longer counted then, so that others may have it."""
    size = 16 * 2**20
    tracemalloc.start()
    try:
        with serving(ScriptedPool(brightness)) as (client, pool):
            threads, responses = in_threads(1, lambda: client.score(json.dumps(small_request()).encode() + b" " * size))
            until(lambda: pool.begun == 1)
            held = [
                trace.size
                for trace in tracemalloc.take_snapshot()
                .filter_traces([tracemalloc.Filter(True, module.__file__) for module in (scoring, incoming)])
                .traces
            ]
            pool.held.set()
            threads[0].join()
    finally:
        tracemalloc.stop()
    assert responses[0].status == 200 and sum(held) < size // 16


def test_pixels_of_an_image_and_of_a_request_have_limits():
    with serving(settings=config(max_megapixels=0.001, max_total_megapixels=0.002)) as (client, pool):
        large = encoded(np.zeros((40, 26, 3), dtype=np.uint8))
        response = client.score(source=large, edited=[large])
        assert response.status == 413
        assert "source must have at most 1,000 pixels; its header announces 26 × 40" in response.detail
        response = client.score(edited=[large])
        assert response.status == 413 and "edited[0] must have at most 1,000 pixels" in response.detail
        fits = encoded(np.zeros((25, 40, 3), dtype=np.uint8))
        mask = {"rle": {"size": [25, 40], "counts": [0, 1000]}}
        response = client.score(source=fits, edited=[fits, fits], mask=mask)
        assert response.status == 413 and "3 images of 1,000 pixels, 3,000 together; at most 2,000" in response.detail
        assert pool.begun == 0
        assert client.score(source=fits, edited=[fits], mask=mask).status == 200


def test_a_full_queue_is_429_with_a_time_to_come_back():
    pool = ScriptedPool(brightness)
    with serving(pool, config(queue=2)) as (client, _):
        threads, responses = in_threads(2, client.score)
        until(lambda: pool.begun == 2)
        assert metric(client, "locus_queue_taken") == 2
        refused = client.score()
        assert refused.status == 429 and "All 2 slots" in refused.detail
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/healthz").status == 200
        pool.held.set()
        for thread in threads:
            thread.join()
        assert [response.status for response in responses] == [200, 200] and pool.begun == 2
        assert client.score().status == 200


def test_requests_wait_for_pixels_in_turn():
    pool = ScriptedPool(brightness)
    # Each request holds 3 × 54 pixels: two at a time.
    with serving(pool, config(max_total_megapixels=0.0004)) as (client, _):
        threads, responses = in_threads(5, client.score)
        until(lambda: metric(client, "locus_queue_taken") == 5)
        until(lambda: pool.begun == 2)
        time.sleep(0.3)
        assert pool.begun == 2  # the others wait although nothing else happens
        pool.held.set()
        for thread in threads:
            thread.join()
        assert [response.status for response in responses] == [200] * 5


def test_a_deadline_is_504_while_scoring_and_503_while_waiting():
    pool = ScriptedPool(brightness, lingers=6.0)  # so that the second does not get its turn just before its end
    with serving(pool, config(deadline=3.0, max_total_megapixels=0.0002)) as (client, _):
        threads, responses = in_threads(1, client.score)
        until(lambda: pool.begun == 1)
        waiting = client.score()
        threads[0].join()
        assert (responses[0].status, waiting.status) == (504, 503)
        assert "still being scored after 3 s" in responses[0].detail and "waiting for its turn" in waiting.detail
        assert waiting.headers["retry-after"]
        assert pool.begun == 1 and pool.given_up == 1
        pool.held.set()
        assert client.score().status == 200


def test_a_client_that_leaves_frees_its_place():
    pool = ScriptedPool(brightness)
    with serving(pool, config(queue=1)) as (client, _):
        body = json.dumps(small_request())
        connection = http.client.HTTPConnection("127.0.0.1", client.port)
        connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
        until(lambda: pool.begun == 1)
        connection.close()
        until(lambda: pool.given_up == 1)
        until(lambda: metric(client, "locus_queue_taken") == 0)
        assert metric(client, 'locus_requests_total{path="/v1/score",status="499"}') == 1


@pytest.mark.parametrize("sent", [b"", b"{", b"{" * 2**17])
def test_a_body_that_does_not_arrive_is_408(monkeypatch, sent):
    monkeypatch.setattr(incoming, "PATIENCE_SECONDS", 0.3)
    with serving() as (client, _), socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow:
        slow.sendall(HEAD % 1_000_000 + sent)
        response = b""
        while not response.endswith(b'end."}'):
            response += slow.recv(65536)
        assert response.startswith(b"HTTP/1.1 408") and b"must arrive within 0.3 s and at 1,048,576 bytes/s" in response
        monkeypatch.setattr(incoming, "PATIENCE_SECONDS", 30.0)
        assert client.score().status == 200


def test_who_announces_much_and_sends_nothing_keeps_out_nobody(monkeypatch):
    monkeypatch.setattr(incoming, "PATIENCE_SECONDS", 600.0)  # so that it is not their end that lets others in
    with serving(settings=config(max_body_megabytes=1, queue=2)) as (client, _):
        silent = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(8)]
        for connection in silent:
            connection.sendall(HEAD % 2**20 + b"{")
        assert client.score().status == 200 and metric(client, "locus_queue_taken") == 0
        for connection in silent:
            connection.settimeout(0.01)
            with pytest.raises(TimeoutError):  # still waiting
                connection.recv(1)
            connection.close()


def test_large_bodies_are_read_only_when_there_is_room(monkeypatch):
    monkeypatch.setattr(lanes, "BODIES", 1)
    monkeypatch.setattr(lanes, "BODIES_OF_A_CLIENT", 1)
    with serving(settings=config(max_body_megabytes=1)) as (client, pool):
        first = socket.create_connection(("127.0.0.1", client.port))
        first.sendall(HEAD % 2**20 + b" " * incoming.FIRST_PIECE)
        until(lambda: metric(client, "locus_queue_taken") == 1)
        threads, responses = in_threads(1, lambda: client.score(LARGE_BODY))
        until(lambda: metric(client, "locus_queue_taken") == 2)
        assert not responses and pool.begun == 0
        first.close()
        threads[0].join()
        assert responses[0].status == 200


def test_one_client_never_holds_all_the_memory_for_bodies():
    """Two addresses of this machine are two clients."""
    with serving(settings=config(max_body_megabytes=1)) as (client, _):
        many = [
            socket.create_connection(("127.0.0.1", client.port), source_address=("127.0.0.2", 0))
            for _ in range(lanes.BODIES + 1)
        ]
        for connection in many:
            connection.sendall(HEAD % 2**20 + b" " * incoming.FIRST_PIECE)
        until(lambda: metric(client, "locus_queue_taken") == len(many))
        assert client.score(LARGE_BODY).status == 200 and metric(client, "locus_queue_taken") == len(many)
        for connection in many:
            connection.close()


def test_a_body_whose_length_is_announced_in_two_ways_is_refused_unread():
    with serving(settings=config(max_body_megabytes=1)) as (client, pool):
        for length in ("0", "10"):
            response = client.ask(
                "POST",
                "/v1/score",
                iter([b"{}"]),
                {"Content-Type": "application/json", "Content-Length": length, "Transfer-Encoding": "chunked"},
                encode_chunked=True,
            )
            assert response.status == 400 and "Content-Length or Transfer-Encoding, not both" in response.detail
        assert metric(client, "locus_queue_taken") == 0 and pool.begun == 0
        assert client.score().status == 200


def test_what_is_being_decoded_when_its_time_is_over_stays_in_the_budget(monkeypatch):
    begun, release, decode = [], threading.Event(), scoring.decode

    def slow(*arguments):
        begun.append(arguments)
        release.wait(30)
        return decode(*arguments)

    monkeypatch.setattr(scoring, "decode", slow)
    # One request's pixels, 3 × 54, at a time.
    with serving(settings=config(deadline=3.0, max_total_megapixels=0.0002)) as (client, _):
        first, responses = in_threads(1, client.score)
        until(lambda: len(begun) == 1)
        waiting = client.score()
        assert waiting.status == 503 and "waiting for its turn" in waiting.detail
        assert len(begun) == 1 and not responses and metric(client, "locus_queue_taken") == 1
        release.set()
        first[0].join()
        assert responses[0].status == 503
        assert client.score().status == 200


def test_judges_that_are_gone_are_503_and_come_back():
    down = threading.Event()
    down.set()

    def scores(task, images):
        if down.is_set():
            raise JudgesDown("editscore: 8 requests in a row got no response.")
        return brightness(task, images)

    with serving(ScriptedPool(scores)) as (client, pool):
        pool.held.set()
        response = client.score()
        assert response.status == 503 and "The judges give no scores: editscore: 8 requests" in response.detail
        assert response.headers["retry-after"]
        down.clear()
        assert client.score().status == 200


def test_errors_of_scores_are_bounded():
    with serving(
        ScriptedPool(
            lambda task, images: {name: (Score(error="e" * 10_000),) * 2 for name in ("background_psnr", "editscore")}
        )
    ) as (client, pool):
        pool.held.set()
        response = client.score()
        assert response.json["rewards"] == [None, None]
        assert len(response.json["components"]["editscore"][0]["error"]) == 500


def test_requests_that_wait_when_the_service_ends_are_told_so(monkeypatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 1)
    pool = ScriptedPool(brightness)
    with serving(pool, release=False) as (client, _):
        threads, responses = in_threads(1, client.score)
        until(lambda: pool.begun == 1)
    threads[0].join()
    assert responses[0].status == 503 and "shutting down" in responses[0].detail and pool.given_up == 1
