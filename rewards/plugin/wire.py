"""Messages between a reward pool and the process of a user's scorer: JSON and the bytes of arrays, never pickle."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editing.task import EditTask
from rewards.result import Score
from rewards.scorer_api import ScoreInput

Arrays = Mapping[str, NDArray[Any]]
REGION = "region "


def send(connection: socket.socket, message: Mapping[str, Any], arrays: Arrays) -> None:
    """Sends a message of JSON values, and arrays by name.

    Raises:
        OSError: when the other side is gone.
    """
    forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    head = json.dumps({"message": message, "arrays": forms}).encode()
    connection.sendall(len(head).to_bytes(8, "big") + head)
    for array in arrays.values():
        connection.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The next message and its arrays, which are the receiver's own.

    Raises:
        EOFError, OSError: when the other side is gone.
    """
    length = int.from_bytes(_filled(connection, np.empty(8, dtype=np.uint8)).tobytes(), "big")
    head = json.loads(_filled(connection, np.empty(length, dtype=np.uint8)).tobytes())
    return head["message"], {
        name: _filled(connection, np.empty(shape, dtype)) for name, (dtype, shape) in head["arrays"].items()
    }


def _filled(connection: socket.socket, array: NDArray[Any]) -> NDArray[Any]:
    rest = array.reshape(-1).view(np.uint8).data
    while len(rest):
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return array


def of_input(given: ScoreInput) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The input as a message and arrays; of `task.meta` what is JSON."""
    task = given.task
    arrays = {
        "images": given.images,
        "source": task.source,
        "edit_mask": task.edit_mask,
        "target": task.target,
        "acd": given.acd,
        **{f"{REGION}{name}": mask for name, mask in task.regions.items()},
    }
    message = {
        "task_id": task.task_id,
        "instruction": task.instruction,
        "caption": task.caption,
        "meta": {key: value for key, value in task.meta.items() if _is_json(value)},
    }
    return message, {name: array for name, array in arrays.items() if array is not None}


def to_input(message: Mapping[str, Any], arrays: Arrays) -> ScoreInput:
    """The input out of a message and arrays."""
    regions = {name.removeprefix(REGION): mask for name, mask in arrays.items() if name.startswith(REGION)}
    task = EditTask(
        **message, source=arrays["source"], edit_mask=arrays["edit_mask"], target=arrays.get("target"), regions=regions
    )
    return ScoreInput(task, arrays["images"], arrays.get("acd"))


def of_scores(scores: Sequence[Score]) -> dict[str, Any]:
    """Scores as a message."""
    return {"scores": [[one.value, one.error, one.passes, one.reason] for one in scores]}


def to_scores(message: Mapping[str, Any]) -> tuple[Score, ...]:
    """Scores out of a message."""
    return tuple(Score(value, error, tuple(passes), reason) for value, error, passes, reason in message["scores"])


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
