"""A scripted judge: a real HTTP server of the OpenAI protocol, as vLLM speaks it, that responds from a script.

In a thread:   with ScriptedServer("500*2,good") as server: ... server.url ... server.log
As a process:  `tests.judges.processes`, for those that are to be killed
By hand:       python -m tests.judges.scripted --port 0 --script good      (prints `port N`)

A script is a list of behaviours, one per request, the last one repeated; a comma-separated text of them
(`500*3,good`); or a function from `Asked` to a behaviour. Probes (one-token requests, and rehearsals) have a script
of their own.

good            scores of `hashed_scores` (or `scores`), in the JSON schema or as a digit, as the request wants
constant        12 and 12, always         over:N     every score is N (26)      nan      every score is NaN
count:N         N scores (1)              empty      no text                    null     content is null
garbage         prose                     truncated  half the JSON, finish_reason length
text:WORDS      those words               low_mass   digits hold a tenth of the probability
no_choices      200 without a choice      html       200 with a page            500      that status (400..599)
429:S           ... with Retry-After: S   reset      the socket is reset        drop     ... amid the response
hang            never responds            slow:S     good after S seconds
redirect:URL    307 to there
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from rewards.scorers.judged import REHEARSAL_SEED
from tests.judges.replies import Asked, completion, hashed_scores, tokens_of

Script = str | Sequence[str] | Callable[[Asked], str]
Scores = Callable[[Asked], Sequence[float]]
MODEL = "judge"


class Steps:
    """A script being played."""

    def __init__(self, script: Script) -> None:
        self._choose = script if callable(script) else None
        self._left: list[str] = []
        if not callable(script):
            for item in script.split(",") if isinstance(script, str) else script:
                name, star, times = item.rpartition("*")
                self._left += [name] * int(times) if star and times.isdigit() else [item]

    def next(self, asked: Asked) -> str:
        if self._choose is not None:
            return self._choose(asked)
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


class Scripted:
    """The application itself, without a loop or a socket. `log` has every request, `active` and `peak` how many
    are, and at most were, worked on at once, `left` how many were given up by the client."""

    def __init__(
        self, script: Script, probes: Script, scores: Scores, log_file: Path | None = None, tokenize: bool = True
    ) -> None:
        self.log: list[Asked] = []
        self.active = self.peak = self.left = self.tokenized = 0
        self.quote = ""  # errors say this, as some servers quote the key that they got
        self._scores, self._log_file, self._has_tokenize = scores, log_file, tokenize
        self.play(script, probes)

    def app(self) -> web.Application:
        """A new application; one serves in one event loop only."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self._has_tokenize:
            app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/log", self._show_log)
        app.router.add_post("/script", self._change)
        return app

    def play(self, script: Script | None = None, probes: Script | None = None) -> None:
        """Another script from now on."""
        if script is not None:
            self._script = Steps(script)
        if probes is not None:
            self._probes = Steps(probes)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = self._read(await request.json(), request.headers.get("Authorization"))
        self.log.append(asked)
        if self._log_file is not None:
            with self._log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asked.summary()) + "\n")
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            return await self._respond(request, asked)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.active -= 1

    def _read(self, body: dict[str, Any], authorization: str | None) -> Asked:
        parts: list[dict[str, Any]] = []
        for message in body["messages"]:
            content = message["content"]
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        links = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        data = [link for link in links if link.startswith("data:image/png;base64,")]
        fields = {key: value for key, value in body.items() if key != "messages"}
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        values = dict(
            number=len(self.log),
            time=time.monotonic(),
            probe=(limit == 1 and not body.get("logprobs")) or body.get("seed") == REHEARSAL_SEED,
            seed=body.get("seed"),
            temperature=body.get("temperature"),
            max_tokens=limit,
            text="\n".join(part["text"] for part in parts if part["type"] == "text"),
            images=tuple(base64.b64decode(link.split(",", 1)[1], validate=True) for link in data),
            urls=len(links) - len(data),
            authorization=authorization,
            fields=fields,
        )
        behaviour = (self._probes if values["probe"] else self._script).next(Asked(behaviour="", **values))
        return Asked(behaviour=behaviour, **values)

    async def _respond(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        kind, _, argument = asked.behaviour.partition(":")
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "slow":
            await asyncio.sleep(float(argument))
        if kind == "reset":
            _reset(request)
            raise asyncio.CancelledError
        if kind == "redirect":
            return web.Response(status=307, headers={"Location": argument})
        if kind.isdigit():
            headers = {"Retry-After": argument} if argument else {}
            said = f"scripted {kind}" + (f", your key was {self.quote}" if self.quote else "")
            error = {"message": said, "type": "scripted", "param": None, "code": int(kind)}
            return web.json_response({"error": error}, status=int(kind), headers=headers)
        if kind == "html":
            return web.Response(text="<html>Welcome to the proxy</html>", content_type="text/html")
        body = completion(asked, MODEL, tuple(self._scores(asked)), kind, argument)
        if kind == "drop":
            response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(json.dumps(body).encode()[:100])
            _reset(request)
            raise asyncio.CancelledError
        return web.json_response(body)

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.tokenized += 1
        tokens = tokens_of(body["prompt"])
        return web.json_response({"count": len(tokens), "max_model_len": 4096, "tokens": tokens, "token_strs": None})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "scripted", "max_model_len": 4096}],
            }
        )

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _show_log(self, request: web.Request) -> web.Response:
        return web.json_response([asked.summary() for asked in self.log])

    async def _change(self, request: web.Request) -> web.Response:
        self.play(**await request.json())
        return web.Response()


def _reset(request: web.Request) -> None:
    """The connection ends with RST, as that of a process that was killed does."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def serve(scripted: Scripted, port: int, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Serves on 127.0.0.1 until `stop`; `ready` is told the port."""
    runner = web.AppRunner(scripted.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        ready(runner.addresses[0][1])
        await stop.wait()
    finally:
        await runner.cleanup()


class ScriptedServer:
    """A scripted server in a thread of this process, a context manager; `stop` and `start` keep its port."""

    def __init__(
        self,
        script: Script = "good",
        probes: Script = "good",
        *,
        scores: Scores = hashed_scores,
        port: int = 0,
        tokenize: bool = True,
    ) -> None:
        self.scripted = Scripted(script, probes, scores, tokenize=tokenize)
        self.play = self.scripted.play
        self.port = port
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> list[Asked]:
        return list(self.scripted.log)

    @property
    def requests(self) -> list[Asked]:
        return [asked for asked in self.log if not asked.probe]

    @property
    def probes(self) -> list[Asked]:
        return [asked for asked in self.log if asked.probe]

    @property
    def peak(self) -> int:
        return self.scripted.peak

    def served(self, kind: str) -> int:
        """How often a behaviour was played on a request: the witness that a fault happened."""
        return sum(asked.behaviour.partition(":")[0] == kind for asked in self.requests)

    def start(self) -> None:
        started: Future[int] = Future()

        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            try:
                await serve(self.scripted, self.port, started.set_result, self._stop)
            except OSError as error:  # the port is taken
                started.set_exception(error)

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), name="scripted-judge", daemon=True)
        self._thread.start()
        self.port = started.result(20)

    def stop(self) -> None:
        if self._thread is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            self._thread = None

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", default="good")
    parser.add_argument("--probes", default="good")
    parser.add_argument("--log", type=Path, help="file that gets one JSON line per request")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    options = parser.parse_args()

    async def run() -> None:
        stop = asyncio.Event()
        if options.until_stdin_closes:
            loop = asyncio.get_running_loop()

            def watch() -> None:
                sys.stdin.read()
                loop.call_soon_threadsafe(stop.set)

            threading.Thread(target=watch, daemon=True).start()
        scripted = Scripted(options.script, options.probes, hashed_scores, options.log)
        await serve(scripted, options.port, lambda port: print(f"port {port}", flush=True), stop)

    asyncio.run(run())


if __name__ == "__main__":
    main()
