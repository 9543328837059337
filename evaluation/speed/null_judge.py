"""A judge and a scorer that do nothing, to time everything around them.

python -m evaluation.speed.null_judge         prints `port N`, and serves until its standard input is closed
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rewards.result import Score
from rewards.scorer_api import ScoreInput

RESPONSE = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": '{"reasoning": "As asked; the rest is unchanged.", "score": [20, 15]}',
                },
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
).encode()
"""The immediate response to every request."""


def zero(given: ScoreInput) -> tuple[Score, ...]:
    """A scorer by dotted path (`evaluation.speed.null_judge:zero`)."""
    return (Score(value=0.0),) * len(given.images)


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the requests of one connection and respond to each with 200; as much HTTP/1.1 as an OpenAI client needs."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(RESPONSE)
    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(head + RESPONSE)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client disconnected
    finally:
        writer.close()


async def serve() -> None:
    """Serve on a free port of this machine until standard input is closed."""
    server = await asyncio.start_server(respond, "127.0.0.1", limit=2**24)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


@contextmanager
def null_judge() -> Iterator[str]:
    """The URL of a null judge in a separate process, which ends with the context or with this process."""
    command = [sys.executable, "-m", "evaluation.speed.null_judge"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline().removeprefix('port'))}/v1"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
