"""A small real HTTP server that responds with what a test wrote down."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Answers:
    """`responses[path]` is (status, body); `seen` holds (method, path, headers, JSON body) of every request."""

    def __init__(self) -> None:
        self.responses: dict[str, tuple[int, object]] = {}
        self.seen: list[tuple[str, str, dict[str, str], object]] = []
        self.address = ""


@contextmanager
def serving() -> Iterator[Answers]:
    """A server on a free port of loopback, until the end of the block."""
    told = Answers()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            told.seen.append((self.command, self.path, dict(self.headers), body))
            status, response = told.responses.get(self.path, (404, "no such page"))
            content = (response if isinstance(response, str) else json.dumps(response)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
