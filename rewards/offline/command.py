"""Shared by the commands that score images from files: the pool, what it leaves out, exit codes."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import structlog
from rich.console import Console
from rich.text import Text

from configs.components import OF_THE_BENCHMARK
from configs.errors import ConfigError
from configs.exits import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from configs.judges import JudgeConfig
from configs.load import load_config
from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import EditTask, TaskError
from rewards.cache.base import CacheError
from rewards.embedding.folder import EmbeddingError
from rewards.judge.messages import JudgeError
from rewards.offline.edits import EditsError
from rewards.open import open_pool
from rewards.plugin.process import ScorerError
from rewards.pool import PoolError, RewardPool, weighted
from rewards.vllm.local import LocalJudgeServers
from rewards.vllm.replicas import Name, ServersFailed

LOGS = ".scoring"
"""Where, in the folder of the runs, the logs of judge servers lie that a command has started."""
BACKGROUND = ("background_psnr", "background_ssim")
WITHOUT_PICTURES = {
    **dict.fromkeys(OF_THE_BENCHMARK, "needs the ground truth of the embedded benchmark"),
    "acd": "is measured while the editor makes the image",
}
"""Components that cannot be computed from images alone, and why."""


@dataclass(frozen=True)
class Components:
    """What is scored, and a sentence for each component that would have been but cannot."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]


class _NoTasks:
    """A pool that is asked about tasks of others needs none of its own."""

    fingerprint = ""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> EditTask:
        raise IndexError(index)


NO_TASKS = Tasks(_NoTasks(), _NoTasks())


def components(rewards: RewardsConfig, masked: bool, target: bool, caption: bool) -> Components:
    """The weighted components, those whose embedding model is named, and those that cost nothing: PSNR and SSIM of
    the background, PSNR to a target.

    Args:
        rewards: whose `weights` are asked for; the weights themselves do not matter here.
        masked: whether it is known what was not to change.
        target: whether the wanted image is known.
        caption: whether a description of the wanted image is known.

    Raises:
        ConfigError: when nothing is left.
    """
    why = dict(WITHOUT_PICTURES)
    if not masked:
        why |= dict.fromkeys((*BACKGROUND, "dino_background"), "needs a mask, to know what was not to change")
    if not target:
        why["edit_psnr"] = "needs a target, the wanted image"
    if not caption:
        why["clip_direction"] = "needs a caption, a description of the wanted image"
    wanted = dict.fromkeys(
        (*weighted(rewards), *rewards.embedding.configured, *BACKGROUND, *(["edit_psnr"] if target else []))
    )
    names = tuple(name for name in wanted if name not in why)
    if not names:
        raise ConfigError(
            "there is nothing to measure: give a mask (for PSNR and SSIM of what was not to change), or "
            "a judge (--rewards.judge.editscore.urls '[http://127.0.0.1:8000/v1]')"
        )
    return Components(names, tuple(f"{name} {why[name]}" for name in wanted if name in why))


def configuration(flags: Sequence[str], masked: bool, target: bool, caption: bool) -> tuple[RunConfig, Components]:
    """The configuration that the flags ask for, with exactly the components that can be scored.

    Raises:
        ConfigError: for wrong flags.
    """
    config = load_config(flags)
    found = components(config.rewards, masked, target, caption)
    rewards = config.rewards.model_copy(update={"weights": dict.fromkeys(found.names, 1.0)})
    # An embedded cache would end with this command; a shared one is used.
    redis = config.redis.model_copy(update={"mode": "off"}) if config.redis.mode == "embedded" else config.redis
    return config.model_copy(update={"rewards": rewards, "redis": redis}), found


@asynccontextmanager
async def opened(config: RunConfig) -> AsyncIterator[RewardPool]:
    """The pool of a configuration, once all its judges have answered; servers of its own end with it.

    Raises:
        ScorerError: when a scorer of the user's own cannot be loaded.
        EmbeddingError: when an embedding model cannot be loaded.
        PoolError, CacheError: when a package is missing, or the cache cannot be set up.
        ServersFailed: when a judge server of its own does not start.
        JudgeUnavailable: when a judge does not respond.
    """
    async with AsyncExitStack() as stack:
        with _said(waiting_for(config)):
            urls: dict[str, list[str]] = {
                name: stack.enter_context(_served(config.rewards.judge, name, Path(config.folder) / LOGS))
                for name in get_args(Name)
                if getattr(config.rewards.judge, name).serve.replicas
            }
            pool = open_pool(config, NO_TASKS, urls)
            stack.push_async_callback(pool.close)
            await pool.start()
        yield pool


def waiting_for(config: RunConfig) -> str:
    """Which judge servers are waited for, and how long; empty without judges."""
    judges = config.rewards.judge
    urls = dict.fromkeys(url for name in judges.configured for url in getattr(judges, name).urls)
    where = f" at {', '.join(urls)} for {judges.patience:g} s at most (rewards.judge.patience)" if urls else ""
    return f"Waiting for the judges{where} ..." if judges.configured else ""


@contextmanager
def _said(sentence: str) -> Iterator[None]:
    """What is waited for: on a terminal while it lasts, elsewhere once."""
    console = Console(stderr=True)
    with console.status(Text(sentence)) if console.is_terminal and sentence else nullcontext():
        if sentence and not console.is_terminal:
            print(sentence, file=sys.stderr, flush=True)
        yield


@contextmanager
def _served(judge: JudgeConfig, name: Name, folder: Path) -> Iterator[list[str]]:
    """The addresses of a judge's servers that are started here. One that is lost is not started again: the command
    is short, and reports that the judge is gone."""

    def ignored(*_: object, **__: object) -> None:
        pass

    with LocalJudgeServers(judge, name, folder, ignored, ignored) as servers:
        yield servers.urls()


def ended(work: Coroutine[Any, Any, bool]) -> int:
    """Runs the work of a command: 0 when it says that all is well, 1 when not or when the judges are gone, 2 when
    something is wrong with the request; every fault is a sentence."""
    try:
        with warnings_only():
            return DONE if asyncio.run(work) else FAILED
    except (ConfigError, ScorerError, EmbeddingError, TaskError, EditsError) as error:
        print(error, file=sys.stderr)
        return WRONG_REQUEST
    except (JudgeError, ServersFailed, PoolError, CacheError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def warnings_only() -> Iterator[None]:
    """Warnings, and those alone, go to the standard error: what a command prints may be read by a program."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)
