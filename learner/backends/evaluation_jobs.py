"""Measurements on held-out tasks as jobs of the rollout workers and the reward pool, done again where one is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from actors.fleet import Fleet, JobFailed
from editing.task import NOT_FINITE
from editing.trajectory import Shown
from learner.backends.base import HeldOut
from learner.backends.ray_results import GroupLost, Spoiled
from learner.errors import RunFailed

if TYPE_CHECKING:
    import ray

CHUNK = 8  # tasks per job: enough to be worth a call, few enough to spread over the workers

Rows = Sequence[Mapping[str, float]]
AskPool = Callable[[list[int], "ray.ObjectRef"], Coroutine[Any, Any, Rows]]
"""`await ask_pool(indices, images)`: has the pool measure the images of these tasks."""
Start = Callable[[Coroutine[Any, Any, None]], None]
"""`start(coroutine)`: runs it, and resumes it while `wait` waits, see `HeldOutJobs.measure`."""


@dataclass(frozen=True)
class _Chunk:
    method: Literal["held_out", "shown"]
    indices: tuple[int, ...]
    attempt: int = 0


class HeldOutJobs:
    """One measurement."""

    def __init__(self, fleet: Fleet, ask_pool: AskPool, start: Start, base: bool, max_attempts: int) -> None:
        """`base` measures the editor without adapter; a lost job is done again `max_attempts` times."""
        self._fleet, self._ask_pool, self._start = fleet, ask_pool, start
        self._base, self._max_attempts = base, max_attempts
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
                self._start(self._measure(self._todo.popleft()))
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

    async def _measure(self, chunk: _Chunk) -> None:
        """Has a worker make the chunk's images and the pool measure them, unless they are only shown."""
        try:
            message, images = await self._fleet.run(chunk.method, list(chunk.indices), self._base)
            if chunk.method == "shown":
                self._shown.update({one.index: one for one in message})
            else:
                rows = await self._ask_pool(list(chunk.indices), images)
                self._metrics.update(zip(chunk.indices, rows, strict=True))
        except (JobFailed, GroupLost, Spoiled) as error:
            self._failed(chunk, str(error), error.spoiled)
        else:
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
