"""Tests of rewards.service.incoming: who sends a body that is refused can read why before the connection ends."""

import json
import re
import socket

import pytest
import requests

from rewards.service import incoming
from tests.rewards.service.running import TOKEN, config, metric, serving, small_request

MIB = 2**20
SENTENCE = "The body is longer than service.max_body_megabytes allows; send several requests."


@pytest.fixture(scope="module")
def service():
    with serving(settings=config(max_body_megabytes=1)) as (client, _):
        yield client


def head(length: int, *more: str) -> bytes:
    lines = (
        "POST /v1/score HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode()


def read(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection; a reset is an error."""
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


@pytest.mark.parametrize("more", [(), ("Connection: close",), ("Expect: 100-continue",)], ids=str)
def test_a_socket_that_sends_twice_the_limit_before_it_reads(service, more):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as sender:
        sender.sendall(head(2 * MIB, *more))
        sender.sendall(b" " * 2 * MIB)
        response = read(sender)
    assert response.startswith(b"HTTP/1.1 413") and json.loads(response.partition(b"\r\n\r\n")[2]) == {
        "detail": SENTENCE
    }
    assert re.search(rb"(?im)^connection: close\r$", response) and b"100 Continue" not in response


def test_who_waits_to_be_told_to_send_is_told_not_to(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as polite:
        polite.sendall(head(2 * MIB, "Expect: 100-continue"))
        assert polite.recv(65536).startswith(b"HTTP/1.1 413")
    body = json.dumps(small_request()).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as polite:
        polite.sendall(head(len(body), "Expect: 100-continue", "Connection: close"))
        assert polite.recv(65536).startswith(b"HTTP/1.1 100")
        polite.sendall(body)
        assert read(polite).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}], ids=str)
@pytest.mark.parametrize("body", [b" " * 2 * MIB, lambda: (b" " * 2**16 for _ in range(32))], ids=["whole", "chunked"])
def test_a_library_that_sends_twice_the_limit(service, headers, body):
    given = requests.post(
        f"{service.url}/v1/score",
        body() if callable(body) else body,
        headers={"Content-Type": "application/json", **headers},
        timeout=60,
    )
    assert given.status_code == 413 and given.json() == {"detail": SENTENCE}


def test_a_body_that_is_refused_for_something_else():
    with serving(settings=config(max_body_megabytes=4), token=TOKEN) as (client, _):
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}, 415)):
            given = requests.post(
                f"{client.url}/v1/score",
                b" " * 4 * MIB,
                timeout=60,
                headers={"Content-Type": "application/json", "Connection": "close", **headers},
            )
            assert given.status_code == status


def test_no_more_than_a_few_times_the_limit_is_read(service, monkeypatch):
    monkeypatch.setattr(incoming, "PATIENCE_SECONDS", 600.0)  # so that it is not their end that stops it
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as endless:
        endless.sendall(head(1000 * MIB))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 1000 * MIB:
                endless.sendall(b" " * MIB)
                sent += MIB
    assert sent >= incoming.THROWN_AWAY * MIB
    assert metric(service, "locus_queue_taken") == 0 and service.score().status == 200
