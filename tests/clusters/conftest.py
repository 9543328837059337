"""Real clusters on this machine, for `make test-cluster`. Not part of `make test`: each test takes minutes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.clusters import head as heads


@pytest.fixture(scope="session", autouse=True)
def isolated() -> None:
    """Skips everything outside namespaces of our own: a head here, or its end, would meet other Rays."""
    if "LOCUS_TESTS_ISOLATED" not in os.environ or [name for _, name in socket.if_nameindex()] != ["lo"]:
        pytest.skip(
            "real heads are only started in namespaces of their own: type `make test-cluster`, as root or "
            "where user namespaces are allowed"
        )


@pytest.fixture(scope="session")
def token(isolated) -> None:
    """A token of this test run, made as the shipped files say."""
    heads.run("ray", "get-auth-token", "--generate")
    heads.run("bash", "-c", "chmod 600 ~/.ray/auth_token")


@pytest.fixture(scope="session")
def token_head(token) -> Iterator[None]:
    """The shipped head, with the token."""
    heads.start()
    yield
    heads.run("ray", "stop")
