"""The reward pool: scores trajectory groups and measures held-out edits. A plain class; Ray only wraps it.

Built-in components are computed at once. Judges, embedding models and scorers of the user's own wait for something:
all of a group's are asked at the same time, and many groups may wait together; what is computed meanwhile is computed
in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from configs.rewards import RewardsConfig
from editing.data import Tasks
from editing.task import EditTask, Image
from editing.trajectory import TrajectoryGroup
from rewards.judge.messages import JudgesDown
from rewards.measure import measured
from rewards.result import GroupScores, Score
from rewards.scorer_api import PlainScorer, ScoreInput, WaitingScorer
from rewards.scorers import SCORERS
from rewards.threads import in_thread
from rewards.watched import looks

if TYPE_CHECKING:
    from rewards.cache.base import ScoreCache
    from rewards.judge.pool import JudgePool
    from rewards.judge.statistics import JudgeStatistics
    from rewards.plugin.scorer import OwnScorer

Split = Literal["train", "held_out"]
WATCHED = ("background_psnr",)
"""Diagnostics of every run: without a reward for it the background may decay unseen."""
T = TypeVar("T")


class PoolError(RuntimeError):
    """The pool cannot be opened; the sentence says what to install."""


class RewardPool:
    """Scores groups by the components that `rewards.weights` gives a weight other than 0.

    Use one pool in one event loop. Without judges, scorers of the user's own and `small_pixels` (`waits` is False)
    nothing here ever waits: the coroutines then need no event loop, see `at_once`.
    """

    def __init__(
        self,
        rewards: RewardsConfig,
        tasks: Tasks,
        scorers: Mapping[str, PlainScorer] = SCORERS,
        waiting: Mapping[str, WaitingScorer] | None = None,
        judges: Mapping[str, JudgePool] | None = None,
        cache: ScoreCache | None = None,
        first: Sequence[Callable[[], Awaitable[object]]] = (),
        rehearsals: Sequence[Callable[[], Awaitable[object]]] = (),
        own: Mapping[str, OwnScorer] | None = None,
        small_pixels: int | None = None,
    ) -> None:
        """Components by name; `open_pool` makes those that the configuration asks for.

        Args:
            rewards: the configuration's.
            tasks: of the run.
            scorers: computed at once; where others wait, in a thread, one at a time.
            waiting: awaited, all at the same time.
            judges: the judges behind some of `waiting`; started and closed with the pool.
            cache: what the judges' scores are kept in; closed with the pool.
            first: what `waiting` asks of the judges before their first request; awaited by `start`.
            rehearsals: one request of the run's own size to each judge; awaited by `start` after that.
            own: scorers of the user's own, awaited like `waiting`; closed with the pool.
            small_pixels: for a pool that many clients ask: everything is computed in threads, and images of so many
                pixels together or fewer do not wait there for larger ones.

        Raises:
            ValueError: when a weighted component has no scorer.
        """
        self.tasks = tasks
        self._judge_config, self._judges, self._cache = rewards.judge, dict(judges or {}), cache
        self._own = dict(own or {})
        self._names, waiting = weighted(rewards), {**(waiting or {}), **self._own}
        known = {*scorers, *waiting}
        missing = sorted(set(self._names) - known)
        if missing:
            raise ValueError(f"rewards.weights: there is no scorer for {missing[0]!r}; known: {sorted(known)}.")
        self._waiting = {name: waiting[name] for name in self._names if name in waiting}
        self._plain = {name: scorers[name] for name in self._names if name not in waiting}
        self._first, self._rehearsals = tuple(first), tuple(rehearsals)
        # One thread: several at once would only take each other's cores. Another one for what takes little of them.
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="scorers")
        self._computing_small = ThreadPoolExecutor(1, thread_name_prefix="scorers small")
        self._small_pixels = small_pixels

    @property
    def waits(self) -> bool:
        """Whether scoring may have to wait: for something outside this process, or for other clients."""
        return bool(self._waiting) or self._small_pixels is not None

    async def start(self) -> dict[str, int]:
        """Waits until every server of every judge has responded to a test image, and then to a request with two images
        of the run's own size; returns how many those are, by judge.

        Raises:
            JudgeUnavailable: naming each server that did not respond in time.
            JudgeRefused: when a judge cannot be asked as it would have to be, such as for want of `/tokenize`, or of a
                context that the run's images fit into.
        """
        waited = [self._cache.ready()] if self._cache is not None else []
        await asyncio.gather(*(judge.start() for judge in self._judges.values()), *waited)
        await asyncio.gather(*(ask() for ask in self._first))
        await asyncio.gather(*(ask() for ask in self._rehearsals))
        return {name: judge.statistics().in_rotation for name, judge in self._judges.items()}

    async def score(self, group: TrajectoryGroup) -> GroupScores:
        """The scores of every candidate; a scorer that fails gives errors that name it, not a crash.

        Raises:
            ValueError: when the group's task is another one here, so that pool and workers read other data.
            JudgesDown: when a judge's failure limit is reached; the run must stop.
        """
        start = time.monotonic()
        task = self.tasks.train[group.lease.task_index]
        if task.task_id != group.task_id:
            raise ValueError(
                f"group {group.lease.group_id} was rolled out for task {group.task_id}, but training task "
                f"{group.lease.task_index} is {task.task_id} at the reward pool: both must read the same data."
            )
        components = await self.score_task(task, group.images, group.acd)
        return GroupScores(
            group_id=group.lease.group_id,
            policy_version=group.policy_version,
            components=components,
            seconds=time.monotonic() - start,
            diagnostics=await self._diagnostics(ScoreInput(task, group.images, group.acd)),
        )

    async def _diagnostics(self, given: ScoreInput) -> dict[str, tuple[Score, ...]]:
        """Scores that are reported for every run whatever its rewards are: how well the background is preserved, and
        the components of `rewards.watched`."""
        scorers = {name: SCORERS[name] for name in WATCHED if name not in self._names}
        found = {
            name: await _run(name, self._in_thread(scorer) if self.waits else _at_once(scorer), given)
            for name, scorer in scorers.items()
        }
        if not self.waits:
            return {**found, **looks(given)}
        return {**found, **await in_thread(self._computing, looks, given)}

    async def score_task(
        self, task: EditTask, images: NDArray[np.uint8], acd: NDArray[np.float32] | None = None
    ) -> dict[str, tuple[Score, ...]]:
        """The scores of images uint8 [G, H, W, 3] as edits of any task, by component.

        Raises:
            ValueError: when the images do not have the task's size.
            JudgesDown: see `score`.
        """
        given = ScoreInput(task, images, acd)
        if not self.waits:
            return {name: await _run(name, _at_once(scorer), given) for name, scorer in self._plain.items()}
        # The requests first: while they are under way, there is time to compute.
        scorers = {**self._waiting, **{name: self._in_thread(scorer) for name, scorer in self._plain.items()}}
        loop = asyncio.get_running_loop()
        asked = [loop.create_task(_run(name, scorer, given)) for name, scorer in scorers.items()]
        try:
            found = dict(zip(scorers, await asyncio.gather(*asked), strict=True))
        finally:
            for request in asked:
                request.cancel()  # done already, unless another one stopped the run
        return {name: found[name] for name in self._names}

    def _in_thread(self, scorer: PlainScorer) -> WaitingScorer:
        """The scorer in a thread, so that the event loop takes the judges' responses meanwhile."""

        async def computed(given: ScoreInput) -> Sequence[Score]:
            small = self._small_pixels is not None and given.pixels <= self._small_pixels
            return await in_thread(self._computing_small if small else self._computing, scorer, given)

        return computed

    def measure(
        self, indices: Sequence[int], images: Sequence[Image] | NDArray[np.uint8], split: Split
    ) -> list[dict[str, float]]:
        """Metrics per task of edited images, see `rewards.measure.measured`; judges are not asked.

        Args:
            indices: M task numbers of the split.
            images: M images uint8 [H, W, 3], or [M, H, W, 3].
            split: which tasks: "train" or "held_out".
        """
        source = {"train": self.tasks.train, "held_out": self.tasks.held_out}[split]
        return [measured(source[index], image) for index, image in zip(indices, images, strict=True)]

    async def set_urls(self, name: str, urls: Sequence[str]) -> None:
        """The servers of a judge from now on, beside those of the configuration; a new one is asked once it has
        responded to a test image."""
        self._judges[name].set_urls((*getattr(self._judge_config, name).urls, *urls))

    async def statistics(self) -> dict[str, float]:
        """Numbers since the start: per judge `<judge>_asked`, `_p50_seconds`, `_error_rate`, ...; of the cache
        `cache_hits`, `cache_misses`, ... What has no value yet is left out. Empty without judges."""
        found: dict[str, float] = {}
        for name, judge in self._judges.items():
            found.update({f"{name}_{key}": value for key, value in _numbers(judge.statistics()).items()})
        if self._cache is not None:
            found.update({f"cache_{key}": float(value) for key, value in asdict(self._cache.statistics()).items()})
        return found

    def own_scorers(self) -> dict[str, bool]:
        """The scorers of the user's own, and whether each has a process that can score. May be asked from any thread;
        what has ended by itself begins to be replaced."""
        return {name: scorer.alive for name, scorer in self._own.items()}

    async def close(self) -> None:
        """Ends all connections, the processes of the user's scorers, and the cache's server if it is the pool's own."""
        try:
            await asyncio.gather(
                *(judge.close() for judge in self._judges.values()),
                *(asyncio.to_thread(scorer.close) for scorer in self._own.values()),
            )
        finally:
            for threads in (self._computing, self._computing_small):
                threads.shutdown(wait=False, cancel_futures=True)
            if self._cache is not None:
                await self._cache.close()


def weighted(rewards: RewardsConfig) -> tuple[str, ...]:
    """The components that have a weight other than 0."""
    return tuple(name for name, weight in rewards.weights.items() if weight != 0)


def at_once(scoring: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, without an event loop (a pool whose `waits` is False).

    Raises:
        RuntimeError: when it does wait.
    """
    try:
        scoring.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    scoring.close()
    raise RuntimeError("this pool waits for judges or for scorers of the user's own: await it in an event loop")


def _at_once(scorer: PlainScorer) -> WaitingScorer:
    async def computed(given: ScoreInput) -> Sequence[Score]:
        return scorer(given)

    return computed


async def _run(name: str, scorer: WaitingScorer, given: ScoreInput) -> tuple[Score, ...]:
    size = len(given.images)
    # The one place where any exception is caught: whatever a scorer does, the run goes on with errors that are
    # counted, and the limit on lost groups stops it. Only a judge's own failure limit stops it from here.
    try:
        scores = await scorer(given)
    except JudgesDown:
        raise
    except Exception as error:
        return (Score(error=f"{name}: the scorer failed with {type(error).__name__}: {error}"),) * size
    if len(scores) != size:
        return (Score(error=f"{name}: the scorer returned {len(scores)} scores for {size} candidates"),) * size
    return tuple(scores)


def _numbers(counts: JudgeStatistics) -> dict[str, float]:
    """A judge's statistics as numbers; what has no value yet is left out."""
    failed = counts.unanswered + counts.refused + counts.bad
    return {
        name: float(value)
        for name, value in {
            **asdict(counts),
            "error_rate": failed / counts.asked if counts.asked else None,
        }.items()
        if value is not None
    }
