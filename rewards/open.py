"""From a configuration to the reward pool that it asks for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.components import EMBEDDINGS
from configs.judges import JUDGED
from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import EditTask, TaskError
from rewards.pool import PoolError, RewardPool, weighted
from rewards.scorer_api import WaitingScorer

if TYPE_CHECKING:
    from rewards.cache.base import ScoreCache
    from rewards.judge.pool import JudgePool
    from rewards.plugin.scorer import OwnScorer

REHEARSED_AMONG = 8
"""Training tasks, one of which is shown to the judges before the first group."""


def open_pool(
    config: RunConfig,
    tasks: Tasks,
    urls: Mapping[str, Sequence[str]] | None = None,
    folder: Path | None = None,
    small_pixels: int | None = None,
) -> RewardPool:
    """The pool that the configuration asks for, not started yet.

    Args:
        config: of the run.
        tasks: of the run.
        urls: servers by judge that were started elsewhere, beside those of the configuration.
        folder: where an embedded cache keeps what it needs; None takes a temporary one.
        small_pixels: see `RewardPool`.

    Raises:
        ScorerError: when a scorer of the user's own cannot be loaded.
        EmbeddingError: when an embedding model cannot be loaded.
        PoolError, CacheError: when a package is missing, or the cache cannot be set up.
    """
    names = weighted(config.rewards)
    with ExitStack() as undone:
        own = _own_scorers(config.rewards, names, undone)  # before there is a cache to close
        waiting: dict[str, WaitingScorer] = {}
        judges: dict[str, JudgePool] = {}
        cache: ScoreCache | None = None
        first: list[Callable[[], Awaitable[object]]] = []
        rehearsals: list[Callable[[EditTask], Awaitable[None]]] = []
        if EMBEDDINGS.keys() & names:
            from rewards.embedding.scorers import open_scorers

            waiting.update(open_scorers(config.rewards.embedding, names))
        # Imported late: clients of servers are needed where there are servers.
        wanted = {JUDGED[name] for name in names if name in JUDGED}
        if wanted:
            from rewards.cache.open import open_cache

            try:
                from rewards.judge.pool import JudgePool
            except ModuleNotFoundError as error:
                raise PoolError(
                    f"rewards.judge needs the package {error.name}, which is not installed; type: "
                    "python -m pip install -e '.[judges]'   in the folder of Locus"
                ) from error
            from rewards.scorers.editscore import EditScore
            from rewards.scorers.editscore_pair import COMPONENTS, EditScorePair
            from rewards.scorers.qwen_vl import QwenVl

            settings, key = config.rewards.judge, os.environ.get("LOCUS_JUDGE_API_KEY") or "none"
            cache = open_cache(config.redis, folder)
            for name, judge in (("editscore", settings.editscore), ("qwen_vl", settings.qwen_vl)):
                if name in wanted:
                    judges[name] = JudgePool(
                        name, (*judge.urls, *(urls or {}).get(name, ())), judge.model, settings, key
                    )
            if "editscore" in judges:
                editscore = EditScore(judges["editscore"], settings.editscore, cache)
                pair = EditScorePair(editscore)
                waiting.update({"editscore": editscore, **{name: pair.component(name) for name in COMPONENTS}})
                rehearsals.append(editscore.rehearse)
            if "qwen_vl" in judges:
                waiting["qwen_vl"] = qwen_vl = QwenVl(judges["qwen_vl"], settings.qwen_vl, cache)
                first.append(qwen_vl.digit_ids)
                rehearsals.append(qwen_vl.rehearse)
        pool = RewardPool(
            config.rewards,
            tasks,
            waiting=waiting,
            judges=judges,
            cache=cache,
            first=first,
            own=own,
            rehearsals=[partial(_rehearsed, tasks, rehearsal) for rehearsal in rehearsals],
            small_pixels=small_pixels,
        )
        undone.pop_all()
    return pool


def _own_scorers(config: RewardsConfig, names: Sequence[str], undone: ExitStack) -> dict[str, OwnScorer]:
    """The weighted scorers of the user's own, their processes started; `undone` ends them."""
    own = {}
    for name in names:
        if name in config.scorers:
            from rewards.plugin.scorer import OwnScorer

            own[name] = OwnScorer(name, config.scorers[name], config.scorer_deadline, config.scorer_processes)
            undone.callback(own[name].close)
    return own


async def _rehearsed(tasks: Tasks, rehearsal: Callable[[EditTask], Awaitable[None]]) -> None:
    """A rehearsal with the first training task that can be read, if there is one among the first few."""
    for index in range(min(len(tasks.train), REHEARSED_AMONG)):
        try:
            task = await asyncio.to_thread(tasks.train.__getitem__, index)
        except TaskError:
            continue  # reported when it is rolled out
        return await rehearsal(task)
