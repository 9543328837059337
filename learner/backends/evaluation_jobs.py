"""Measurements on held-out tasks as jobs of the rollout workers and the reward pool, done again where one is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from actors.fleet import FETCH_SECONDS, Fleet, Job
from editing.task import NOT_FINITE
from editing.trajectory import Shown
from learner.backends.base import HeldOut
from learner.backends.ray_results import GroupLost, Spoiled, result_of
from learner.errors import RunFailed

if TYPE_CHECKING:
    import ray

CHUNK = 8  # tasks per job: enough to be worth a call, few enough to spread over the workers

AskPool = Callable[[list[int], "ray.ObjectRef", Callable[["ray.ObjectRef"], None]], None]
"""`ask(indices, images, call)`: has the pool measure the images of these tasks, and calls `call(answer)`."""


@dataclass(frozen=True)
class _Chunk:
    method: Literal["held_out", "shown"]
    indices: tuple[int, ...]
    attempt: int = 0


class HeldOutJobs:
    """One measurement."""

    def __init__(self, fleet: Fleet, ask_pool: AskPool, base: bool, max_attempts: int) -> None:
        """`base` measures the editor without adapter; a lost job is done again `max_attempts` times."""
        self._fleet, self._ask_pool, self._base, self._max_attempts = fleet, ask_pool, base, max_attempts
        self._todo: deque[_Chunk] = deque()
        self._open = 0
        self._metrics: dict[int, Mapping[str, float]] = {}
        self._shown: dict[int, Shown] = {}
        self._spoiled: dict[int, str] = {}
        self._not_finite: dict[int, str] = {}

    def measure(self, indices: Sequence[int], shown: int, wait: Callable[[], None]) -> HeldOut:
        """See `learner.backends.base.Backend.measure_held_out`; `wait` returns when something may have happened.

        Raises:
            RunFailed: when a job was done again too often in vain.
        """
        self._add("held_out", (tuple(indices[i : i + CHUNK]) for i in range(0, len(indices), CHUNK)))
        self._add("shown", ((index,) for index in indices[:shown]))
        while self._open:
            while self._todo and self._fleet.capacity() > 0:
                chunk = self._todo.popleft()
                self._fleet.submit(
                    Job(
                        chunk.method,
                        (list(chunk.indices), self._base),
                        partial(self._made, chunk),
                        partial(self._failed, chunk),
                    )
                )
            wait()
        return HeldOut(
            [self._metrics[index] for index in indices],
            tuple(self._shown[index] for index in indices if index in self._shown),
            self._spoiled,
            self._not_finite,
        )

    def _add(self, method: Literal["held_out", "shown"], chunks: Any) -> None:
        for chunk in chunks:
            self._todo.append(_Chunk(method, chunk))
            self._open += 1

    def _made(self, chunk: _Chunk, message: Any, pictures: ray.ObjectRef) -> None:
        if chunk.method == "held_out":
            self._ask_pool(list(chunk.indices), pictures, partial(self._measured, chunk))
        else:
            self._shown.update({one.index: one for one in message})
            self._open -= 1

    def _measured(self, chunk: _Chunk, answer: ray.ObjectRef) -> None:
        try:
            rows = result_of("reward pool", answer, FETCH_SECONDS)
        except (GroupLost, Spoiled) as error:
            self._failed(chunk, str(error), isinstance(error, Spoiled))
            return
        self._metrics.update(zip(chunk.indices, rows, strict=True))
        self._open -= 1

    def _failed(self, chunk: _Chunk, why: str, spoiled: bool) -> None:
        not_finite = NOT_FINITE in why  # done again, the same weights would make the same latents
        if (spoiled or not_finite) and len(chunk.indices) > 1:  # one of them: which one?
            self._open -= 1
            self._add(chunk.method, ((index,) for index in chunk.indices))
        elif spoiled or not_finite:
            self._open -= 1
            (self._not_finite if not_finite else self._spoiled)[chunk.indices[0]] = why
            if chunk.method == "held_out":
                self._metrics[chunk.indices[0]] = {}
        elif chunk.attempt >= self._max_attempts:
            raise RunFailed(
                f"held-out tasks {list(chunk.indices)} were redone {chunk.attempt} times "
                f"(cluster.max_attempts) and failed again; the last time: {why}"
            )
        else:
            self._todo.append(replace(chunk, attempt=chunk.attempt + 1))
