"""Tests of rewards.service.protocol: connections that are slow on purpose are ended, hurried ones are not."""

import json
import socket
import time

import pytest

from rewards.service import protocol
from tests.rewards.service.running import ScriptedPool, brightness, config, in_threads, serving, small_request, until


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 2.0)
    with serving(settings=config(max_body_megabytes=1)) as (client, _):
        yield client


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=30)


def responses(client) -> bool:
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


def test_an_idle_connection_is_cut_off_after_its_response(service):
    with connect(service) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        assert ended(idle)


def test_a_request_that_takes_longer_than_that_gets_a_response(monkeypatch):
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 1.0)
    pool = ScriptedPool(brightness)
    with serving(pool) as (client, _), connect(client) as patient:
        body = json.dumps(small_request()).encode()
        patient.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        time.sleep(3.0)  # three times as long as the connection may idle
        pool.held.set()
        assert patient.recv(65536).startswith(b"HTTP/1.1 200")


def test_requests_sent_together_all_get_a_response(service):
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


HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def test_for_a_further_connection_the_longest_silent_one_is_closed(service, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 600.0)
    held = []
    for _ in range(3):
        held.append(connect(service))
        held[-1].sendall(HALF)
        time.sleep(0.05)  # in this order
    with connect(service) as new:
        new.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert new.recv(65536).startswith(b"HTTP/1.1 200")
        assert ended(held[0])
    for kept in held[1:]:
        kept.sendall(b"a\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        kept.close()


def test_hundreds_of_half_sent_headers_keep_out_nobody(service, monkeypatch):
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 600.0)
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 20)
    other = socket.create_connection(("127.0.0.1", service.port), timeout=30, source_address=("127.0.0.2", 0))
    held = []
    for _ in range(60):
        held.append(connect(service))
        held[-1].sendall(HALF)
    assert responses(service)
    other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # was silent, but is of another client
    assert other.recv(65536).startswith(b"HTTP/1.1 200")
    for connection in (other, *held):
        connection.close()


def test_where_all_connections_have_asked_a_further_one_is_closed(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    pool = ScriptedPool(brightness)
    with serving(pool) as (client, _):
        threads, got = in_threads(2, client.score)
        until(lambda: pool.begun == 2)
        assert not responses(client)
        pool.held.set()
        for thread in threads:
            thread.join()
        assert [one.status for one in got] == [200, 200] and responses(client)
