"""The backend in this process: one worker, one pool and one learner that share an editor.

The same classes as under Ray, called directly: at staleness 0 the results are equal bit for bit. One thing happens
after the other; only a pool with judges waits for them in a thread of its own, while the next groups are rolled out.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actors.worker import GROUP_FAULTS, RolloutWorker
from configs.judges import JUDGES
from configs.schema import RunConfig
from editing.data import Tasks
from editing.editors.lora import swapped_weights
from editing.editors.policy import open_policy
from editing.task import Image, TaskError
from editing.trajectory import Generated, Lease, MessageError, Shown, TrajectoryGroup
from editing.weights import WeightProof, WeightVersion
from learner.backends.base import (
    Delivered,
    Exported,
    HeldOut,
    Lost,
    LostOnTheWay,
    Taken,
    Unsaved,
    judges_limit,
    overdue,
    scoring_limit,
)
from learner.backends.learner_host import LearnerHost
from learner.errors import RunFailed
from learner.reporting.records import Notify
from learner.update.step_report import StepReport
from locus.common.event_loop import CLOSING_SECONDS, EventLoopThread
from rewards.judge.messages import JudgeError
from rewards.open import open_pool
from rewards.pool import RewardPool, at_once
from rewards.result import GroupScores
from rewards.vllm.local import LocalJudgeServers
from rewards.vllm.replicas import ServersFailed

T = TypeVar("T")


@dataclass(frozen=True)
class _Scoring:
    """A group that is rolled out and waits for its scores."""

    generated: Generated
    group: TrajectoryGroup
    scores: Future[GroupScores]


class InlineBackend:
    """See `learner.backends.base.Backend`. A full-size editor fits where two would not, since there is only one."""

    def __init__(self, config: RunConfig, folder: Path, notify: Notify, tasks: Tasks) -> None:
        self._config, self._folder, self._notify, self._tasks = config, folder, notify, tasks
        self._lease: Lease | None = None
        self._weights: WeightVersion | None = None
        self._moved = False  # whether the learner's weights have gone on since they were published
        self._pool: RewardPool | None = None
        self._thread: EventLoopThread | None = None  # there is one when the pool may have to wait
        self._judge_servers: list[LocalJudgeServers] = []
        self._scoring: deque[_Scoring] = deque()
        self._outcomes: deque[Taken | LostOnTheWay] = deque()  # of groups handed to the learner
        self._last_scored = 0.0

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        config = self._config
        tasks, editor = self._tasks, open_policy(config.editor, config.seed)
        self._host = LearnerHost(config, self._folder, editor, tasks)
        self._worker = RolloutWorker(config, editor, tasks)
        self._pool = open_pool(config, tasks, folder=self._folder)
        self._editor = editor
        if self._pool.waits:
            self._thread = EventLoopThread("reward pool")
            self._start_judge_servers()
        self._host.start(step, allowed)
        if config.rewards.judge.configured:
            self._wait_for_judges()

    def _start_judge_servers(self) -> None:
        def urls_changed(judge: str, urls: list[str]) -> None:
            self._result(self.pool.set_urls(judge, urls))

        for judge in JUDGES:
            if getattr(self._config.rewards.judge, judge).serve.replicas:
                servers = LocalJudgeServers(
                    self._config.rewards.judge, judge, self._folder, self._notify, partial(urls_changed, judge)
                )
                self._judge_servers.append(servers)
                servers.start()

    def _wait_for_judges(self) -> None:
        """Returns when every server of every judge, ours or not, has responded to a test image."""
        asked = self._config.rewards.judge
        self._notify("judges_awaited", judges=list(asked.configured), seconds=judges_limit(asked))
        try:
            for servers in self._judge_servers:
                servers.wait()
        except ServersFailed as error:
            raise RunFailed(str(error)) from error
        for judge, count in self._result(self.pool.start()).items():
            self._notify("judge_ready", judge=judge, servers=count)

    @property
    def pool(self) -> RewardPool:
        """The reward pool."""
        assert self._pool is not None, "start() comes first"
        return self._pool

    def publish(self) -> WeightProof:
        published, weights = self._host.publish()
        first = self._weights is None
        self._weights = weights.copied()
        with self._proved(self._weights):
            pass  # the editor is shared: afterwards it has the learner's weights again
        self._moved = self._config.algorithm.rolls_out_mean
        if first:
            self._notify("worker_started", pid=os.getpid(), version=published.version)
        return published

    def capacity(self) -> int:
        return 0 if self._lease is not None else 1

    def submit(self, lease: Lease) -> None:
        self._lease = lease

    def next_delivery(self, timeout: float) -> Delivered | Taken | Lost | None:
        if self._outcomes:
            return self._outcomes.popleft()
        for servers in self._judge_servers:
            servers.check()
        lease, self._lease = self._lease, None
        if lease is not None:
            lost = self._roll_out(lease)
            if lost is not None:
                return lost
            timeout = 0.0  # rather than wait, roll out the next one
        return self._next_scored(timeout)

    def pool_statistics(self) -> Mapping[str, float]:
        return {} if self._thread is None else self._result(self.pool.statistics())

    def consume(self, delivered: Delivered) -> None:
        try:
            self._host.consume(delivered.handle, delivered.scores)
        except TaskError as error:
            self._outcomes.append(LostOnTheWay(delivered.lease, str(error), spoiled=True))
        else:
            self._outcomes.append(Taken(delivered.lease))

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        self._moved = True
        return self._host.update()

    def images(self, delivered: Delivered) -> Image:
        group: TrajectoryGroup = delivered.handle
        return group.images

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        metrics: list[Mapping[str, float]] = []
        drawings: list[Shown] = []
        spoiled: dict[int, str] = {}
        not_finite: dict[int, str] = {}
        mean = None if base or self._config.learner.optimizer.ema is None else self._host.learner.measured()
        with self._published_weights() if mean is None else self._proved(mean):
            for index in indices:  # one at a time: images of a whole data set need not fit into memory
                try:
                    sampled = self._worker.sample_held_out([index], base)
                    row = self.pool.measure([index], sampled, "held_out")[0]
                    drawn = self._worker.show_held_out([index], base) if len(metrics) < shown else []
                except TaskError as error:
                    row, drawn, spoiled[index] = {}, [], str(error)
                except MessageError as error:
                    row, drawn, not_finite[index] = {}, [], str(error)
                metrics.append(row)
                drawings += drawn
        return HeldOut(metrics, tuple(drawings), spoiled, not_finite, None if mean is None else mean.proof)

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        return self._host.save(extra)

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        return self._host.export(folder, metadata)

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            wait([thread.submit(self.pool.close())], CLOSING_SECONDS)
            thread.close()
        for servers in self._judge_servers:
            servers.close()

    def _roll_out(self, lease: Lease) -> Lost | None:
        """Makes the group and gives it to the pool."""
        try:
            with self._published_weights():
                generated, group = self._worker.roll_out(lease)
        except GROUP_FAULTS as error:
            return Lost(lease, f"{type(error).__name__}: {error}", spoiled=isinstance(error, TaskError))
        self._notify(
            "generated",
            group=lease.group_id,
            pid=generated.pid,
            version=generated.policy_version,
            seconds=round(generated.seconds, 4),
        )
        if not self._scoring:
            self._last_scored = time.monotonic()
        self._scoring.append(_Scoring(generated, group, self._future(self.pool.score(group))))
        return None

    def _next_scored(self, timeout: float) -> Delivered | Lost | None:
        """The group that waits for the longest, once it is scored: in order, so that runs repeat.

        Raises:
            RunFailed: when the judges are down, or the pool hangs.
        """
        if not self._scoring:
            return None
        first = self._scoring[0]
        if not wait([first.scores], timeout).done:
            if time.monotonic() - self._last_scored > scoring_limit(self._config):
                raise overdue(self._config, len(self._scoring))
            return None
        self._scoring.popleft()
        self._last_scored = time.monotonic()
        try:
            return Delivered(first.generated, _result(first.scores), handle=first.group)
        except TaskError as error:
            return Lost(first.generated.lease, str(error), spoiled=True)

    def _future(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """The result to come; without a thread it is there already."""
        if self._thread is not None:
            return self._thread.submit(coroutine)
        done: Future[T] = Future()
        try:
            done.set_result(at_once(coroutine))
        except TaskError as error:
            done.set_exception(error)
        return done

    def _result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The pool's response to a request that takes no longer than `scoring_limit`.

        Raises:
            RunFailed: when a judge is not there, or the pool hangs.
        """
        future = self._future(coroutine)
        if not wait([future], scoring_limit(self._config)).done:
            raise overdue(self._config, len(self._scoring))
        return _result(future)

    @contextmanager
    def _proved(self, weights: WeightVersion) -> Iterator[None]:
        """A context in which the worker holds other weights than those that it rolls out under."""
        with swapped_weights(self._editor.transformer, weights.arrays):
            self._worker.set_weights(weights)
            yield

    def _published_weights(self) -> AbstractContextManager[None]:
        """The learner goes on between publications, or trains others than it publishes; workers do not."""
        if not self._moved:
            return nullcontext()
        assert self._weights is not None, "publish() comes first"
        return swapped_weights(self._editor.transformer, self._weights.arrays)


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except JudgeError as error:
        raise RunFailed(str(error)) from error
