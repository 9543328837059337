"""Where the service listens and who may call it: on loopback any local user, beyond it holders of the token."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from configs.rewards import ServiceConfig
from rewards.service.refusal import Refusal

TOKEN_VARIABLE = "LOCUS_SERVICE_TOKEN"
TOKEN_LENGTH = 32
OPEN_PATHS = ("/healthz",)
"""Served without the token, so that health checks need no secret."""


class AccessError(ValueError):
    """The service cannot or must not listen there; the sentence says what to change."""


@dataclass(frozen=True)
class Access:
    """The access rules, decided once at the start.

    Attributes:
        host: as configured.
        address: that it stands for, and that is listened on.
        loopback: only programs of this machine can connect.
        token: that every request must bring, if there is one.
    """

    host: str
    address: str
    loopback: bool
    token: str | None = field(repr=False)

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Lets a request through.

        On loopback without a token the Host header must name this machine: otherwise a web page whose name was made to
        point here could send requests on behalf of its reader (DNS rebinding).

        Args:
            path: of the request.
            headers: by lower-case name.

        Raises:
            Refusal: 401 without the token, 421 for another host's name.
        """
        if path in OPEN_PATHS:
            return
        if self.token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # Compared as bytes, in a time that does not tell how much of it was right.
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
                raise Refusal(
                    401,
                    "Expected the header 'Authorization: Bearer ...' with the token of this service "
                    f"({TOKEN_VARIABLE} where it was started).",
                )
        elif self.loopback and not _names_this_machine(headers.get("host", ""), self.host):
            raise Refusal(
                421,
                "Without a token this service accepts only the names of its own machine; expected "
                "localhost or 127.0.0.1 in the Host header.",
            )


def decide(config: ServiceConfig, environment: Mapping[str, str]) -> Access:
    """The access rules for a listening address and a token, or none.

    Raises:
        AccessError: a host that means no address; a bad token; no token beyond loopback.
    """
    token = environment.get(TOKEN_VARIABLE)
    if token is not None and (
        len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise AccessError(
            f"{TOKEN_VARIABLE}: expected {TOKEN_LENGTH} or more printable characters, no spaces, got {len(token)}; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    addresses = _addresses(config)
    loopback = all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
    if not loopback and token is None:
        raise AccessError(
            f"service.host: {config.host} can be reached from other machines, so a token is needed; set "
            f"{TOKEN_VARIABLE} ({TOKEN_LENGTH} characters or more), or listen on 127.0.0.1. Nothing is encrypted: "
            "put a proxy with TLS in front on untrusted networks."
        )
    return Access(config.host, addresses[0], loopback, token)


def bind(access: Access, port: int) -> socket.socket:
    """A socket on the decided address, not yet listening; port 0 takes a free one.

    Raises:
        AccessError: when the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in access.address else socket.AF_INET
    # Named TCP, for asyncio sets TCP_NODELAY on such sockets only; without it small responses wait 40 ms for an ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((access.address, port))
    except OSError as error:
        bound.close()
        raise AccessError(
            f"service.port: {access.address} port {port} cannot be bound ({error.strerror}); "
            "choose another port, or 0 for a free one."
        ) from error
    return bound


def _addresses(config: ServiceConfig) -> list[str]:
    try:
        found = socket.getaddrinfo(config.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AccessError(
            f"service.host: expected an address or a name of this machine, got {config.host!r} ({error})."
        ) from error
    return [str(entry[4][0]) for entry in found]


def _names_this_machine(header: str, host: str) -> bool:
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", host.lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
