"""One vLLM server: a process tree that is started, awaited, monitored, and always cleaned up."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from configs.judges import ServeConfig
from rewards.judge.images import encode_png
from rewards.vllm import guard
from rewards.vllm.command import check_exposure, command, environment

GRACE = 10.0
"""Seconds that a server gets to end by itself before it is killed."""
LOOK_EVERY = 0.5
PROBE_SIDE = 56
"""Pixels per side of the image that a new server is asked about: a whole number of patches of 14 and of 28."""


class ServerFailed(RuntimeError):
    """A judge server did not start; the sentence says why, from the last lines of its log."""


class VllmServer:
    """A context manager: `start` begins, `wait` returns when it has responded to a test image, `stop` leaves no
    process.

    `ended` is set as soon as the server is gone for whatever reason, and everything of it with it; `reason` says why.
    """

    def __init__(
        self,
        config: ServeConfig,
        model: str,
        name: str,
        log: Path,
        host: str = "127.0.0.1",
        api_key: str = "",
        devices: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            model: the weights, merged where there is a LoRA: a folder, or a name on the hub.
            name: under which the model is served.
            log: a new file for what the server says.
            host: the address of this machine to listen on.
            api_key: asked of every request; may be empty on loopback.
            devices: the GPUs to use; None takes those that are visible.

        Raises:
            ValueError: for an address beyond loopback without a key.
        """
        check_exposure(host, api_key)
        self.config, self.log, self.host, self.reason = config, log.absolute(), host, ""
        self.ended = threading.Event()
        self._model, self._name, self._api_key, self._devices = model, name, api_key, devices
        self._guard: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None

    @property
    def url(self) -> str:
        """The base address for an OpenAI client, once started."""
        assert self._port is not None, "start() comes first"
        return f"http://{self.host}:{self._port.getsockname()[1]}/v1"

    @property
    def pid(self) -> int:
        """The guard's process, above all processes of the server."""
        assert self._guard is not None, "start() comes first"
        return self._guard.pid

    def start(self) -> None:
        """Starts the processes and returns at once.

        Raises:
            ServerFailed: when vLLM's interpreter or the log's folder is not there.
        """
        assert self._guard is None, "a server starts once"
        # Bound but not listening: no other process is given this port, and the server may bind it too (SO_REUSEADDR).
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind((self.host, 0))
        values = environment(self.config, self._model, self._api_key, os.environ)
        if self._devices is not None:
            values["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices)
        try:
            arguments = command(self.config, self._model, self._name, self.host, self._port.getsockname()[1])
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("xb") as log:
                self._guard = subprocess.Popen(
                    guard.guarded(os.getpid(), GRACE, arguments),
                    # No session and no process group of its own: whatever ends the group of this process ends it too.
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=values,
                )
        except (OSError, ValueError) as error:
            self._port.close()
            raise ServerFailed(f"The judge server {self.log.stem} could not be started: {error}") from error
        threading.Thread(target=self._watch, args=(self._guard,), name=f"watch {self.log.stem}", daemon=True).start()

    def wait(self) -> None:
        """Returns when the server has responded to a test image.

        Raises:
            ServerFailed: when it ended, or did not respond within `serve.start_timeout` seconds; it is stopped then.
        """
        limit = self.config.start_timeout
        deadline, seen = time.monotonic() + limit, "nothing"
        while (left := deadline - time.monotonic()) > 0 and not self.ended.wait(min(left, LOOK_EVERY)):
            try:
                if self._ask("GET", "/health", None, timeout=5.0)[0] != 200:
                    continue
                status, body = self._ask("POST", "/v1/chat/completions", self._image(), timeout=left)
            except (OSError, http.client.HTTPException) as error:
                seen = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return
            seen = f"status {status}: {body[:300].decode(errors='replace')}"
            break  # it is up, and says what is wrong
        died = self.ended.is_set()
        self.stop()
        why = (
            self.reason
            if died
            else (f"it did not respond to a test image within {limit:g} s (serve.start_timeout); got {seen}")
        )
        raise ServerFailed(f"The judge server {self.log.stem} did not start: {why}")

    def stop(self) -> None:
        """Ends every process of the server and returns when they are gone; may be called twice."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()  # which the guard sees
            self.ended.wait(2 * GRACE + 3 * guard.KILLED_WITHIN)  # the guards' own limits come before
        if self._port is not None:
            self._port.close()

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _watch(self, guarded: subprocess.Popen[bytes]) -> None:
        """Waits for the guard's end; where it was killed, ends what it can no longer end."""
        code = guarded.wait()
        gone = guard.end_writers(self.log)
        asked = guarded.stdin is not None and guarded.stdin.closed
        how = (
            f"was killed by signal {code - 128 if code > 128 else -code}"
            if code < 0 or code > 128
            else (f"ended with exit code {code}")
        )
        if not gone or code == guard.LEFT_SOMETHING:
            how = f"left processes {sorted(guard.writers(self.log))} that are still alive after SIGKILL"
        self.reason = "it was stopped" if asked and gone else f"it {how}; {last_words(self.log)}"
        self.ended.set()

    def _image(self) -> dict[str, Any]:
        image = np.zeros((PROBE_SIDE, PROBE_SIDE, 3), np.uint8)
        image[PROBE_SIDE // 4 : PROBE_SIDE // 2] = 200
        data = base64.b64encode(encode_png(image)).decode()
        return {
            "model": self._name,
            "max_tokens": 1,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                        {"type": "text", "text": "Answer with one word."},
                    ],
                }
            ],
        }

    def _ask(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, bytes]:
        assert self._port is not None
        connection = http.client.HTTPConnection(self.host, self._port.getsockname()[1], timeout=timeout)
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def last_words(log: Path) -> str:
    """What a server's log says about its end, and where it is: its last errors, else its last lines."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not re.search(r"\b(?:INFO|WARNING)\b", line)]
    errors = [line for line in said if re.search(r"(?:\b[A-Z]\w*(?:Error|Exception)|error):", line)]
    # A failure in the engine is told again by everybody who waited for it: the first and the last say most.
    telling = list(dict.fromkeys([*errors[:1], *errors[-1:]])) or lines[-3:]
    return f"its log {log} says: {' | '.join(line[-300:] for line in telling) or 'nothing'}"
