"""The backend on Ray: rollout workers, a reward pool and a learner, each a process of its own.

Groups go worker -> pool -> learner by reference; this process sees only leases, scores and reports. Everything
that happens arrives at one place (`_poll`), which calls back whoever waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import Announcement, Fleet, FleetError, Job, WrongWeights
from actors.trajectory import Generated, Lease, Shown
from cluster.runtime import actor_options, connect
from cluster.scale import DesiredFile, ScaleError
from configs.rewards import JUDGES
from configs.schema import RunConfig
from editing.task import Image
from learner.answers import FETCH_SECONDS, GroupLost, answer_of
from learner.backend import (
    Delivered,
    HeldOut,
    Lost,
    Notify,
    Published,
    RunFailed,
    Unsaved,
    judges_limit,
    overdue,
    scoring_limit,
)
from learner.learner_group import LearnerGroup
from learner.pool_actor import PoolActor, secrets
from learner.reports import StepReport
from rewards.result import GroupScores
from rewards.vllm.replicas import ServersFailed

if TYPE_CHECKING:
    from rewards.vllm.actor import JudgeServers

CHUNK = 8  # held-out tasks per job: enough to be worth a call, few enough to spread over the workers
WAIT_SECONDS = 1.0  # deadlines are looked at this often
CLOSING_SECONDS = 10.0


class RayBackend:
    """See `learner.backend.Backend`."""

    def __init__(self, config: RunConfig, folder: Path, notify: Notify) -> None:
        """Connects to Ray, or starts it; processes come with `start`."""
        # Absolute: the processes of a cluster that runs already have a working directory of their own.
        self._config, self._folder, self._notify = config, folder.resolve(), notify
        self._runtime = connect(config.cluster)
        self._waiting: dict[ray.ObjectRef, Callable[[ray.ObjectRef], None]] = {}
        self._inbox: deque[Delivered | Lost] = deque()
        self._learner: LearnerGroup | None = None
        self._fleet: Fleet | None = None
        self._desired = DesiredFile(self._folder, config.cluster)
        self._pool: Any = None
        self._judge_servers: list[JudgeServers] = []
        self._asked = 0  # calls that the pool has not answered yet
        self._answered_at = 0.0

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        config = self._config
        cluster = config.cluster
        self._learner = learner = LearnerGroup.open(config, self._folder)
        self._pool = ray.remote(PoolActor).options(**actor_options(cluster, 0.0)).remote(
            config, self._folder, secrets())
        self._start_judge_servers()  # they take the longest
        self._fleet = Fleet(
            config, actor_options(cluster, cluster.gpus_per_rollout_worker), self._when_ready, self._notify)
        learner.start(step, allowed)
        if config.rewards.judge.configured:
            self._wait_for_judges()

    def _start_judge_servers(self) -> None:
        def urls_changed(judge: str, urls: list[str]) -> None:
            done = self._pool.set_urls.remote(judge, urls)
            self._when_answered(done, lambda ref: answer_of("reward pool", ref, FETCH_SECONDS))

        for judge in JUDGES:
            if getattr(self._config.rewards.judge, judge).serve.replicas:
                from rewards.vllm.actor import JudgeServers

                servers = JudgeServers(self._config, judge, self._folder, self._when_ready, self._notify,
                                       partial(urls_changed, judge))
                self._judge_servers.append(servers)
                servers.start()

    def _wait_for_judges(self) -> None:
        """Returns when every server of every judge, ours or not, has answered a picture."""
        self._notify("judges_awaited", judges=list(self._config.rewards.judge.configured),
                     seconds=judges_limit(self._config))
        try:
            while self._asked or not all(servers.ready for servers in self._judge_servers):
                self._poll(WAIT_SECONDS)
        except ServersFailed as error:
            raise RunFailed(str(error)) from error
        for judge, servers in answer_of("reward pool", self._pool.start.remote(), scoring_limit(self._config)).items():
            self._notify("judge_ready", judge=judge, servers=servers)

    @property
    def fleet(self) -> Fleet:
        """The rollout workers."""
        assert self._fleet is not None, "start() comes first"
        return self._fleet

    @property
    def learner(self) -> LearnerGroup:
        """The learner's processes."""
        assert self._learner is not None, "start() comes first"
        return self._learner

    def publish(self) -> Published:
        published, weights = self.learner.publish()
        first = not self.fleet.pids()
        self.fleet.publish(Announcement(published.version, published.sha256, published.modules), weights)
        while first and self.capacity() == 0:  # starting up ends when there is a worker that can work
            self._poll(WAIT_SECONDS)
        return published

    def capacity(self) -> int:
        return self.fleet.capacity()

    def submit(self, lease: Lease) -> None:
        def done(generated: Generated, group: ray.ObjectRef) -> None:
            self._notify("generated", group=lease.group_id, pid=generated.pid, version=generated.policy_version,
                         seconds=round(generated.seconds, 4))
            self._when_answered(self._pool.score.remote(group), lambda ref: self._scored(generated, group, ref))

        self.fleet.submit(Job("roll_out", (lease,), done, lambda why: self._inbox.append(Lost(lease, why))))

    def _scored(self, generated: Generated, group: ray.ObjectRef, ref: ray.ObjectRef) -> None:
        try:
            scores: GroupScores = answer_of("reward pool", ref, FETCH_SECONDS)
        except GroupLost as error:
            self._inbox.append(Lost(generated.lease, str(error)))
            return
        self._inbox.append(Delivered(generated, scores, handle=group))

    def next_delivery(self, timeout: float) -> Delivered | Lost | None:
        if not self._inbox:
            self._poll(timeout)
        return self._inbox.popleft() if self._inbox else None

    def pool_statistics(self) -> Mapping[str, float]:
        if not self._config.rewards.judge.configured:
            return {}
        found: Mapping[str, float] = answer_of(
            "reward pool", self._pool.statistics.remote(), scoring_limit(self._config))
        return found

    def consume(self, delivered: Delivered) -> None:
        # Looked at as soon as it is there, so that a learner that died or refused is noticed before the step's end.
        for done in self.learner.consume(delivered):
            self._when_ready(done, lambda ref: answer_of("learner", ref, FETCH_SECONDS))

    def update(self) -> StepReport:
        return self.learner.update(look=self._call_back)

    def images(self, delivered: Delivered) -> Image:
        images: Image = answer_of(
            "reward pool", self._pool.images.remote(delivered.handle), scoring_limit(self._config))
        return images

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        chunks = [list(indices[i : i + CHUNK]) for i in range(0, len(indices), CHUNK)]
        measured: dict[int, list[dict[str, float]]] = {}
        pictures: dict[int, list[Shown]] = {}

        def sampled(chunk: list[int], images: ray.ObjectRef) -> None:
            scored = self._pool.measure.remote(chunk, images, "held_out")
            self._when_answered(
                scored, lambda ref: measured.update({chunk[0]: answer_of("reward pool", ref, FETCH_SECONDS)}))

        def drawn(chunk: list[int], found: list[Shown]) -> None:
            pictures[chunk[0]] = found

        self._spread("held_out", chunks, base, lambda chunk, _, images: sampled(chunk, images))
        first = [chunk[:1] for chunk in ([index] for index in list(indices)[:shown])]
        self._spread("shown", first, base, lambda chunk, found, _: drawn(chunk, found))
        while len(measured) < len(chunks):
            self._poll(WAIT_SECONDS)
        return HeldOut(
            metrics=[row for chunk in chunks for row in measured[chunk[0]]],
            shown=tuple(one for chunk in first for one in pictures[chunk[0]]))

    def _spread(
        self, method: str, chunks: list[list[int]], base: bool,
        done: Callable[[list[int], Any, ray.ObjectRef], None],
    ) -> None:
        """Has the workers do every chunk, again where one died, and waits until all are done."""
        todo, open_chunks = deque((chunk, 0) for chunk in chunks), len(chunks)

        def finished(chunk: list[int], message: Any, result: ray.ObjectRef) -> None:
            nonlocal open_chunks
            open_chunks -= 1
            done(chunk, message, result)

        def failed(chunk: list[int], attempt: int, why: str) -> None:
            if attempt >= self._config.cluster.max_attempts:
                raise RunFailed(f"held-out tasks {chunk} were redone {attempt} times (cluster.max_attempts) and failed "
                                f"again; the last time: {why}")
            todo.append((chunk, attempt + 1))

        while open_chunks:
            while todo and self.capacity() > 0:
                chunk, attempt = todo.popleft()
                self.fleet.submit(Job(
                    method, (chunk, base),
                    lambda message, result, chunk=chunk: finished(chunk, message, result),  # type: ignore[misc]
                    lambda why, chunk=chunk, attempt=attempt: failed(chunk, attempt, why)))  # type: ignore[misc]
            self._poll(WAIT_SECONDS)

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        return self.learner.save(extra)

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Path:
        return folder / self.learner.export(folder.resolve(), metadata).name

    def close(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
        if self._pool is not None and self._config.rewards.judge.configured:
            # Requests end and the cache is written, if the pool still can.
            ray.wait([self._pool.close.remote()], timeout=CLOSING_SECONDS)
        for servers in self._judge_servers:
            servers.close()
        if self._pool is not None:
            ray.kill(self._pool, no_restart=True)
        if self._learner is not None:
            self._learner.close()
        self._runtime.close()

    def _when_ready(self, ref: ray.ObjectRef, call: Callable[[ray.ObjectRef], None]) -> None:
        self._waiting[ref] = call

    def _when_answered(self, ref: ray.ObjectRef, call: Callable[[ray.ObjectRef], None]) -> None:
        """As `_when_ready`, of the pool, which must not hang (see `_poll`)."""
        if self._asked == 0:
            self._answered_at = time.monotonic()
        self._asked += 1

        def answered(ref: ray.ObjectRef) -> None:
            self._asked -= 1
            self._answered_at = time.monotonic()
            call(ref)

        self._when_ready(ref, answered)

    def _poll(self, timeout: float) -> None:
        """Waits until something happens and calls back for all that did; looks at deadlines meanwhile."""
        deadline = time.monotonic() + timeout
        while not self._call_back():
            # Only now: a job that ended while this process was busy elsewhere is not overdue.
            arrived = len(self._inbox)
            with _fleet_faults():
                self.fleet.check()
            self._look_at_desired()
            for servers in self._judge_servers:
                servers.check()
            if self._asked and time.monotonic() - self._answered_at > scoring_limit(self._config):
                raise overdue(self._config, self._asked)
            left = deadline - time.monotonic()
            if len(self._inbox) > arrived or left <= 0:
                return
            ray.wait(list(self._waiting), num_returns=1, timeout=min(left, WAIT_SECONDS), fetch_local=False)

    def _look_at_desired(self) -> None:
        """Does what `python -m cluster.scale` asked for."""
        try:
            desired = self._desired.look(time.monotonic())
        except ScaleError as error:
            self._notify("resize_refused", reason=str(error))
            return
        if desired is not None:
            self.fleet.resize(desired)

    def _call_back(self) -> bool:
        """Calls back for everything that is ready; whether there was anything."""
        waiting = list(self._waiting)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        for ref in ready:
            with _fleet_faults():
                self._waiting.pop(ref)(ref)
        return bool(ready)


@contextmanager
def _fleet_faults() -> Iterator[None]:
    """A fleet that gives up ends the run, whose state is saved then like after any other end."""
    try:
        yield
    except (FleetError, WrongWeights) as error:
        raise RunFailed(str(error)) from error
