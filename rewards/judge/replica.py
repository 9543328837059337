"""One judge server: an OpenAI client whose outcomes are a reply or one of our errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2  # what the OpenAI client sends its requests with
import numpy as np
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from configs.addresses import judge_address
from rewards.judge.images import encode_png
from rewards.judge.messages import JudgeRefused, JudgeRequest
from rewards.judge.protocol import Reply, advice, chat_request, read_completion, read_tokens, shortened
from rewards.judge.retries import ServerFault, fate, retry_after_seconds

T = TypeVar("T")

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 2.0
"""Connections are not used again after so long: servers close idle ones (uvicorn after 5 s), and a request sent at
that moment would look like a server that fails."""


class Replica:
    """A server of one model.

    Attributes:
        url: its address, without a slash at the end.
        outstanding, concurrency, held_until, turn: see `rewards.judge.routing.Load`.
        failures: in a row, probes included; an answered request ends the row.
        why: the sentence of the last failure.
        hopeless: the last probe was refused, or went to an address that does not serve this model.
    """

    def __init__(self, url: str, model: str, concurrency: int, api_key: str) -> None:
        """
        Raises:
            ValueError: when the URL is invalid, or has a password in it.
        """
        self.url = judge_address(url)
        self.concurrency = concurrency
        self.outstanding = self.turn = self.failures = 0
        self.held_until = 0.0
        self.why = "has not answered yet"
        self.hopeless = False
        self._model, self._api_key = model, api_key
        parts = urlsplit(self.url)
        self._tokenize_url = parts._replace(path=parts.path.removesuffix("/v1") + "/tokenize").geturl()
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=self.url,
            max_retries=0,
            # Only connecting has a limit here: the caller's is on the whole request, whatever trickles in.
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            http_client=DefaultAsyncHttpxClient(
                limits=httpx2.Limits(keepalive_expiry=IDLE_SECONDS),
                # A redirect would take images and key to another address than the configured one.
                follow_redirects=False,
                # A proxy from the environment cannot reach servers on this machine.
                trust_env=not _on_this_machine(parts.hostname or ""),
            ),
        )

    async def complete(self, request: JudgeRequest) -> Reply:
        """The server's response.

        Raises:
            ServerFault: when another attempt may succeed.
            JudgeRefused: when it would not.
        """
        body = await self._post("/chat/completions", chat_request(request, self._model))
        return self._read(lambda: read_completion(body, request))

    async def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, without special tokens. Raises as `complete`."""
        request = {"model": self._model, "prompt": text, "add_special_tokens": False}
        body = await self._post(self._tokenize_url, request, optional=True)
        return self._read(lambda: read_tokens(body))

    async def probe(self) -> None:
        """Returns when the server can do its work: it looks at an image and generates a token.

        A health address would not do: an engine may be dead behind an HTTP server that still responds.

        Raises: as `complete`.
        """
        await self.complete(_probe_request())

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, path: str, body: dict[str, Any], optional: bool = False) -> bytes:
        """The body of a 2xx response; `optional` for an address that not every server of this protocol has."""
        try:
            response = await self._client.post(path, body=body, cast_to=httpx2.Response)
        except APIStatusError as error:
            raise self._outcome(error, path, optional) from None  # the cause holds the request, and that the key
        except APITimeoutError:
            raise ServerFault(f"no connection within {CONNECT_SECONDS:g} s", "failed") from None
        except APIConnectionError as error:
            raise ServerFault(f"the connection failed: {self._told(error.__cause__ or error)}", "failed") from None
        except (APIError, OSError, RuntimeError) as error:  # asyncio reports some broken transports so
            raise ServerFault(f"the request failed: {self._told(error)}", "failed") from None
        return response.content

    def _outcome(self, error: APIStatusError, path: str, optional: bool) -> ServerFault | JudgeRefused:
        status = error.status_code
        said = f"status {status}: {self._clean(error.message.removeprefix(f'Error code: {status} - '))}"
        kind = fate(status)
        if optional and status in (404, 405, 501):
            return JudgeRefused(
                f"{self.url} has no {urlsplit(path).path} ({said}); this judge needs a server that does, such as vLLM"
            )
        if kind == "refused":
            return JudgeRefused(f"{self.url} refused the request, {said.rstrip('.')}.{advice(said)}".removesuffix("."))
        if status == 404 and not self.url.endswith("/v1"):
            said += " (is /v1 missing at the end of the address?)"
        asked = retry_after_seconds(error.response.headers.get("retry-after"), datetime.now(UTC))
        if asked:
            said += f" (it asks for a pause of {asked:.0f} s)"
        return ServerFault(said, kind, asked)

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except ServerFault as fault:
            raise ServerFault(self._clean(str(fault)), fault.fate) from None
        except JudgeRefused as refused:
            raise JudgeRefused(f"{self.url}: {refused}") from None

    def _told(self, error: BaseException) -> str:
        return self._clean(f"{type(error).__name__} {error}")

    def _clean(self, text: str) -> str:
        """A server's message on one line, without the key, which some servers quote."""
        quoted = len(self._api_key) >= 8
        return shortened(text.replace(self._api_key, "***") if quoted else text)


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cache
def _probe_request() -> JudgeRequest:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(128)), axis=-1)
    return JudgeRequest(parts=("Say in one word what you see.", encode_png(image)), max_tokens=1)
