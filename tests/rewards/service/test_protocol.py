"""Tests of rewards.service.protocol: connections that are slow on purpose are ended, hurried ones are not."""

import json
import socket
import time

import pytest

from rewards.service import protocol
from tests.rewards.service.running import ScriptedPool, brightness, config, serving, small_request, until


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 2.0)
    with serving(settings=config(max_body_megabytes=1)) as (client, _):
        yield client


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=30)


def answers(client) -> bool:
    with connect(client) as probe:
        try:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return probe.recv(65536).startswith(b"HTTP/1.1 200")
        except (BrokenPipeError, ConnectionResetError):
            return False


def ended(connection: socket.socket) -> bool:
    """Reads until the server ends the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def dribble(connection: socket.socket, piece: bytes) -> float:
    """Sends a piece every 50 ms for as long as it is taken; how many seconds that was."""
    start = time.monotonic()
    while time.monotonic() - start < 30:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            break
        time.sleep(0.05)
    return time.monotonic() - start


def test_who_says_nothing_is_cut_off(service):
    with connect(service) as silent:
        assert ended(silent)


def test_headers_letter_by_letter_are_cut_off(service):
    start = time.monotonic()
    with connect(service) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert dribble(slow, b"a") < 15
    assert time.monotonic() - start > 1.5  # not at once


def test_a_body_that_nobody_reads_is_cut_off(service):
    with connect(service) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 415")
        assert dribble(slow, b"a") < 15


def test_an_idle_connection_is_cut_off_after_its_answer(service):
    with connect(service) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        assert ended(idle)


def test_a_request_that_takes_longer_than_that_is_answered(monkeypatch):
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 1.0)
    pool = ScriptedPool(brightness)
    with serving(pool) as (client, _), connect(client) as patient:
        body = json.dumps(small_request()).encode()
        patient.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        time.sleep(3.0)  # three times as long as the connection may idle
        pool.held.set()
        assert patient.recv(65536).startswith(b"HTTP/1.1 200")


def test_requests_sent_together_are_all_answered(service):
    with connect(service) as hurried:
        hurried.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        seen = b""
        while seen.count(b'{"status":"alive"}') < 3:
            piece = hurried.recv(65536)
            assert piece
            seen += piece
        assert ended(hurried)


def test_headers_without_end_are_refused(service):
    with connect(service) as large:
        large.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 100_000)
        assert large.recv(65536).startswith(b"HTTP/1.1 400")


def test_connections_beyond_the_most_are_closed_at_once(service, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 30.0)
    held = [connect(service) for _ in range(3)]
    until(lambda: not answers(service))
    held[0].close()
    until(lambda: answers(service))
    for connection in held:
        connection.close()
