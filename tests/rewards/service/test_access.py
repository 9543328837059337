"""Tests of rewards.service.access: where the service may listen, and who may call it."""

import socket

import pytest

from configs.rewards import ServiceConfig
from rewards.service.access import Access, AccessError, bind, decide
from rewards.service.refusal import Refusal
from tests.rewards.service.running import TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_loopback_needs_no_token(host):
    access = decide(ServiceConfig(host=host), {})
    assert access.loopback and access.token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "192.0.2.1", "::ffff:192.0.2.1"])
def test_beyond_loopback_there_must_be_a_token(host):
    with pytest.raises(AccessError, match=r"can be reached from other machines.*LOCUS_SERVICE_TOKEN.*127\.0\.0\.1"):
        decide(ServiceConfig(host=host), {})
    access = decide(ServiceConfig(host=host), {"LOCUS_SERVICE_TOKEN": TOKEN})
    assert not access.loopback and access.token == TOKEN


def test_a_name_that_also_means_another_machine_is_not_loopback(monkeypatch):
    def both(host, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(AccessError, match="other machines"):
        decide(ServiceConfig(host="two-faced"), {})


@pytest.mark.parametrize("host", ["", "no such host", "nowhere.invalid", "127.0.0.1:80", "x" * 300])
def test_a_host_must_mean_an_address(host):
    with pytest.raises(AccessError, match=r"service\.host: expected an address or a name"):
        decide(ServiceConfig(host=host), {"LOCUS_SERVICE_TOKEN": TOKEN})


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "x" * 40 + " ", "é" * 40, "x" * 40 + "\n"])
def test_a_bad_token_is_refused_even_on_loopback_and_never_shown(token):
    with pytest.raises(AccessError, match="32 or more printable characters") as raised:
        decide(ServiceConfig(), {"LOCUS_SERVICE_TOKEN": token})
    assert not token or token not in str(raised.value)


def test_the_token_is_in_no_text_of_the_access():
    assert TOKEN not in repr(decide(ServiceConfig(), {"LOCUS_SERVICE_TOKEN": TOKEN}))


def test_a_taken_port_is_a_sentence():
    access = decide(ServiceConfig(), {})
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AccessError, match=r"service\.port: 127\.0\.0\.1 port \d+ cannot be bound .*0 for a free one"),
    ):
        bind(access, taken.getsockname()[1])


def test_the_socket_is_one_that_asyncio_sets_nodelay_on():
    with bind(decide(ServiceConfig(), {}), 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_the_token_is_compared_whole(monkeypatch):
    compared = []
    from rewards.service import access as module

    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    access = Access("h", "127.0.0.1", True, TOKEN)
    access.check("/v1/score", {"authorization": f"bearer {TOKEN}"})
    with pytest.raises(Refusal):
        access.check("/v1/score", {"authorization": f"Bearer {TOKEN[:-1]}"})
    assert compared == [(TOKEN.encode(), TOKEN.encode()), (TOKEN[:-1].encode(), TOKEN.encode())]
