"""What hostile requests cost the service in memory: measured as the peak of its process, as the kernel keeps it."""

import base64
import re
import socket
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest

from rewards.service import lanes
from rewards.service.incoming import THROWN_AWAY
from tests.rewards.service.hostile import (
    black_png,
    png_by_header,
    png_of_more_data_than_pixels,
    png_with_text_bomb,
    webp_by_header,
)
from tests.rewards.service.process import Service, service
from tests.rewards.service.running import encoded, small_request, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 2**20
SIDE = 9_110
SMALL = {"rle": {"size": [8, 8], "counts": [0, 64]}}


@pytest.fixture(scope="module")
def running():
    with service() as running:
        # What is loaded and kept at the first requests is not theirs to answer for.
        noise = encoded(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
        for _ in range(3):
            mask = {"rle": {"size": [512, 512], "counts": [0, 512, 512 * 511]}}
            assert running.client.score(source=noise, edited=[noise] * 4, mask=mask).status == 200
        yield running


class Peak:
    """How much the process's memory grew at most since this was made, in bytes."""

    def __init__(self, running: Service) -> None:
        self._process = Path(f"/proc/{running.process.pid}")
        (self._process / "clear_refs").write_text("5")  # the peak starts anew
        self._before = self._kilobytes("VmRSS")

    def _kilobytes(self, name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", (self._process / "status").read_text())[1])

    @property
    def growth(self) -> int:
        return (self._kilobytes("VmHWM") - self._before) * 1024


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("83 megapixels", lambda: black_png(SIDE, SIDE), 413),
        ("83 megapixels by header", lambda: png_by_header(SIDE, SIDE), 413),
        ("262 megapixels by header", lambda: png_by_header(16_200, 16_200), 413),
        ("4 gigapixels by header", lambda: png_by_header(65_500, 65_500), 413),
        ("268 megapixels of WebP", lambda: webp_by_header(16_383, 16_383), 413),
        ("8 pixels of a gigabyte", lambda: png_of_more_data_than_pixels(8, 8, 1000 * MIB), 200),
        ("a gigabyte of text", lambda: png_with_text_bomb(8, 8, 1000 * MIB), 422),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_bombs_leave_the_memory_flat(running, name, data, status):
    file = data()
    assert len(file) < 2 * MIB
    bomb = text(file)
    peak = Peak(running)
    for _ in range(3):
        response = running.client.score(source=bomb, edited=[bomb], mask=SMALL)
        assert response.status == status, response.body[:300]
        if status == 413:
            assert "must have at most 16,000,000 pixels" in response.detail
    assert peak.growth < 16 * MIB, f"{name}: {peak.growth / MIB:.0f} MiB"
    assert running.client.get("/healthz").status == 200


def test_many_allowed_images_together_are_a_bomb_too(running):
    side = 4_000
    black = text(black_png(side, side))
    peak = Peak(running)
    mask = {"rle": {"size": [side, side], "counts": [0, side * side]}}
    response = running.client.score(source=black, edited=[black] * 15, mask=mask)
    assert response.status == 413 and "256,000,000 together; at most 64,000,000" in response.detail
    assert peak.growth < 16 * MIB


def test_ten_thousand_images(running):
    request = small_request(edited=[small_request()["source"]] * 10_000)
    peak = Peak(running)
    response = running.client.score(request)
    assert response.status == 413 and "10,001 images" in response.detail
    assert peak.growth < 32 * MIB


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"a":[[],', b'"",'])
def test_bodies_of_very_many_values(running, piece):
    body = b'{"edited": [' + piece * (16 * MIB // len(piece))
    peak = Peak(running)
    response = running.client.score(body)
    assert response.status == 413 and "values" in response.detail
    assert peak.growth < 4 * len(body)


@pytest.mark.parametrize("mebibytes", [100, 300])
def test_endless_bodies_are_not_kept(running, mebibytes):
    """What is thrown away after a refusal has an end, too: then the connection is closed in the midst of it."""

    def endless():
        for _ in range(mebibytes):
            yield b" " * MIB

    headers = {"Content-Type": "application/json"}
    peak = Peak(running)
    whole = mebibytes < THROWN_AWAY * 32
    with nullcontext() if whole else pytest.raises(ConnectionError):
        response = running.client.ask("POST", "/v1/score", endless(), headers, encode_chunked=True)
        assert response.status == 413
    # No more than the 32 MiB that a body may have, in a buffer that doubles as it grows.
    assert peak.growth < 96 * MIB, peak.growth / MIB


def test_many_large_bodies_at_once_wait_at_their_clients(running):
    size, clients, arrived = 30 * MIB, 12, []
    head = (
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % size
    )

    def send(connection: socket.socket) -> None:
        with suppress(OSError):  # closed below
            connection.sendall(head + bytes(size - 1))
            arrived.append(connection)

    peak = Peak(running)
    connections = [socket.create_connection(("127.0.0.1", running.client.port)) for _ in range(clients)]
    threads = [threading.Thread(target=send, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    until(lambda: len(arrived) == lanes.BODIES_OF_A_CLIENT)
    time.sleep(2)  # long enough for more, if more were read
    held = len(arrived)
    for connection in connections:
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    for thread in threads:
        thread.join()
    assert held == lanes.BODIES_OF_A_CLIENT
    assert peak.growth < (lanes.BODIES_OF_A_CLIENT + 2) * 32 * MIB, peak.growth / MIB
    until(lambda: running.client.get("/readyz").json["queue"]["taken"] == 0)
    assert running.client.score().status == 200


def test_the_measure_sees_an_image_that_is_decoded(running):
    """Otherwise what follows would prove nothing: 12 megapixels are within the limits, and are seen."""
    side = 3_464
    black = text(black_png(side, side))
    peak = Peak(running)
    mask = {"rle": {"size": [side, side], "counts": [0, side * side]}}  # nothing to measure: decoded, not scored
    response = running.client.score(source=black, edited=[black], mask=mask)
    assert response.status == 200 and "no background" in response.json["components"]["background_psnr"][0]["error"]
    assert peak.growth > 2 * 3 * side * side * 0.9


def test_large_images_are_scored_in_little_more_memory_than_they_take(running):
    side = 2_500
    black = text(black_png(side, side))
    mask = {"rle": {"size": [side, side], "counts": [0, side, side * (side - 1)]}}
    peak = Peak(running)
    response = running.client.score(source=black, edited=[black], mask=mask)
    assert response.status == 200 and response.json["components"]["background_ssim"][0]["value"] == 1.0
    # Whole maps of float64 would take twenty times; allocators and threads make five to six of it.
    assert peak.growth < 8 * 2 * 3 * side * side, peak.growth / MIB
