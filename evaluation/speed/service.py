"""Overhead of the reward service relative to the decoding and scoring of a request."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from editing.images import decode_image
from editing.masks import load_mask_png
from editing.task import EditTask
from evaluation.speed.group import GROUP, SIDE, SMALL, group_of, text_of
from evaluation.speed.null_judge import zero
from evaluation.speed.table import ratio
from evaluation.speed.timing import Measured, interleaved, timed
from rewards.judge.images import encode_png
from rewards.scorer_api import ScoreInput


@contextmanager
def null_service() -> Iterator[http.client.HTTPConnection]:
    """A connection to a reward service in a separate process, whose only scorer does nothing."""
    command = [
        sys.executable,
        "-m",
        "rewards.service",
        "--service.port",
        "0",
        "--rewards.scorers",
        '{nothing: "evaluation.speed.null_judge:zero"}',
        "--rewards.weights",
        "{nothing: 1}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://[\w.]+:\d+", line)
            if found is None:
                raise RuntimeError(f"{' '.join(command)}: expected its address, got {line!r}")
            connection = http.client.HTTPConnection(urlsplit(found[0]).netloc, timeout=60)
            yield connection
            connection.close()
        finally:
            process.terminate()
            process.communicate()


def measure_service(repetitions: int) -> list[Measured]:
    """A request to the service relative to decoding its images and calling the scorer."""
    rows = []
    with null_service() as connection:
        for size, side in ((1, SMALL), (GROUP, SIDE)):
            given = group_of(size, side)
            files = [encode_png(image) for image in (given.task.source, *given.images)]
            mask = encode_mask(given.task.edit_mask)
            body = json.dumps(
                {
                    "source": text_of(files[0]),
                    "edited": [text_of(file) for file in files[1:]],
                    "instruction": given.task.instruction,
                    "mask": {"png": text_of(mask), "polarity": "edit_is_white"},
                }
            ).encode()
            service, alone = interleaved(
                [
                    timed(partial(post, connection, body, size), time.perf_counter),
                    timed(partial(direct, files, mask), time.perf_counter),
                ],
                repetitions,
            )
            rows.append(ratio(f"service request, {size} of {side}² / decoding and scoring alone", service, alone))
    return rows


def post(connection: http.client.HTTPConnection, body: bytes, size: int) -> None:
    """Send a request and check that its response is `size` rewards of 0."""
    connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    found = json.loads(response.read())
    if response.status != 200 or found["rewards"] != [0.0] * size:
        raise RuntimeError(f"service: expected {size} rewards of 0, got {found}")


def direct(files: Sequence[bytes], mask: bytes) -> None:
    """The work of a request without the service: decode and score its images."""
    source, *edited = (decode_image(file, "an image") for file in files)
    task = EditTask("speed", source, load_mask_png(mask), "make the square red")
    zero(ScoreInput(task, np.stack(edited), None))


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """A black-and-white PNG, white where the mask is True."""
    return encode_png(np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2))
