"""Stands in for vLLM's interpreter in tests: the same command line, the same shape of process tree, no model.

As vLLM's API server it starts an engine, which starts a worker; both outlive it if it is killed, as vLLM's do. The
command line is read from `serve.arguments`, which come last:

    --pids=FILE      writes "server engine worker" there
    --behaviour=B    good | refuse (a 500 on images) | mute (never healthy) | fail (an error at once) |
                     stubborn (engine and worker ignore SIGTERM and sit in a session of their own)
    --log=FILE       appends one JSON line per request
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def value(name, default=None):
    for at, argument in enumerate(sys.argv):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name:
            return sys.argv[at + 1]
    return default


BEHAVIOUR = value("--behaviour", "good")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.response(503 if BEHAVIOUR == "mute" else 200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("VLLM_API_KEY")
        images = json.dumps(body).count("data:image/png;base64,")
        status = 200
        if BEHAVIOUR == "refuse":
            status = 500
        elif key and self.headers.get("Authorization") != f"Bearer {key}":
            status = 401
        elif body["model"] != value("--served-model-name"):
            status = 404
        if value("--log"):
            with open(value("--log"), "a") as log:
                log.write(json.dumps({"pid": os.getpid(), "status": status, "images": images}) + "\n")
        self.response(status, {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]})

    def response(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def live_on(start_another):
    """A process below this one; responds with the pids of it and what it starts."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        with os.fdopen(read) as pipe:
            below = pipe.readline().split()
        return [pid, *map(int, below)]
    os.close(read)
    if BEHAVIOUR == "stubborn":
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    below = start_another() if start_another else []
    with os.fdopen(write, "w") as pipe:
        pipe.write(" ".join(map(str, below)) + "\n")
    while True:
        time.sleep(60)


def main():
    if BEHAVIOUR == "fail":
        print("INFO loading", "ValueError: no weights in that folder", "INFO shutting down", sep="\n", flush=True)
        sys.exit(3)
    server = ThreadingHTTPServer((value("--host"), int(value("--port"))), Handler)
    tree = live_on(lambda: live_on(None))
    if value("--pids"):
        part = Path(f"{value('--pids')}.{os.getpid()}")  # several may write theirs at the same time
        part.write_text(" ".join(map(str, [os.getpid(), *tree])))
        part.rename(value("--pids"))
    server.serve_forever()


main()
