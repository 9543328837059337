"""The backend on Ray: rollout workers, a reward pool and a learner, each a process of its own.

Groups go worker -> pool -> learner by reference; this process sees only leases, scores and reports. Everything
that happens arrives at one place (`_poll`), which calls back whoever waits for it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import FETCH_SECONDS, Fleet, FleetError, Job, WrongWeights
from cluster.placement import beside_the_driver, custom
from cluster.raylet_monitor import RayletMonitor
from cluster.runtime import actor_options, connect
from cluster.scale import DesiredFile, ScaleError
from configs import exits
from configs.commands import resume
from configs.judges import JUDGES
from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import Image
from editing.trajectory import Generated, Lease
from editing.weights import WeightProof
from learner.backends.base import (
    Delivered,
    Exported,
    HeldOut,
    Lost,
    Taken,
    Unsaved,
    judges_limit,
    overdue,
    scoring_limit,
    step_limit,
    taking_limit,
)
from learner.backends.evaluation_jobs import HeldOutJobs
from learner.backends.learner_group import LearnerGroup
from learner.backends.ray_calls import Calls, outcome
from learner.backends.ray_results import GroupLost, Spoiled, result_of
from learner.backends.reward_worker import PoolActor, secrets
from learner.errors import LearnerLost, RunFailed, RunInterrupted
from learner.reporting.records import Notify
from learner.update.step_report import StepReport
from rewards.result import GroupScores
from rewards.vllm.replicas import ServersFailed

if TYPE_CHECKING:
    from rewards.vllm.actor import JudgeServers

WAIT_SECONDS = 1.0  # deadlines are looked at this often
PAUSE_SECONDS = 0.1
CLOSING_SECONDS = 10.0


class RayBackend:
    """See `learner.backends.base.Backend`."""

    def __init__(self, config: RunConfig, folder: Path, notify: Notify, tasks: Tasks) -> None:
        """Connects to Ray, or starts it; processes come with `start`, which all share `tasks`."""
        # Absolute: the processes of a cluster that runs already have a working directory of their own.
        self._config, self._folder, self._notify = config, folder.resolve(), notify
        self._tasks = tasks
        self._runtime = connect(config.cluster)
        self._watch = RayletMonitor(self._raylet_lost)
        self._waiting: dict[ray.ObjectRef, Callable[[ray.ObjectRef], None]] = {}
        self._inbox: deque[Delivered | Taken | Lost] = deque()
        self._learner: LearnerGroup | None = None
        self._fleet: Fleet | None = None
        self._desired = DesiredFile(self._folder, config.cluster)
        self._pool: Any = None
        self._judge_servers: list[JudgeServers] = []
        self._pool_calls, self._learner_calls = Calls(), Calls()
        self._looked_at = 0.0
        self._failure: RunFailed | None = None

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        config = self._config
        cluster = config.cluster
        tasks = ray.put(self._tasks)  # the fleet holds on to it: workers come later, too
        self._learner = learner = LearnerGroup.open(config, self._folder, tasks)
        pool = actor_options(cluster, config.rewards.embedding.gpus)
        self._pool = (
            ray.remote(PoolActor).options(**pool, **beside_the_driver()).remote(config, self._folder, secrets(), tasks)
        )
        self._start_judge_servers()  # they take the longest
        self._fleet = Fleet(
            config,
            actor_options(cluster, cluster.gpus_per_rollout_worker, custom("rollout")),
            self._when_ready,
            self._notify,
            tasks=tasks,
        )
        learner.start(step, allowed)
        if config.rewards.judge.configured:
            self._wait_for_judges()

    def _start_judge_servers(self) -> None:
        def urls_changed(judge: str, urls: list[str]) -> None:
            done = self._pool.set_urls.remote(judge, urls)
            self._when_answered(self._pool_calls, done, lambda ref: result_of("reward pool", ref, FETCH_SECONDS))

        for judge in JUDGES:
            if getattr(self._config.rewards.judge, judge).serve.replicas:
                from rewards.vllm.actor import JudgeServers

                servers = JudgeServers(
                    self._config,
                    judge,
                    self._folder,
                    self._when_ready,
                    self._notify,
                    partial(urls_changed, judge),
                    custom("judge"),
                )
                self._judge_servers.append(servers)
                servers.start()

    def _wait_for_judges(self) -> None:
        """Returns when every server of every judge, ours or not, has answered an image."""
        asked = self._config.rewards.judge
        self._notify("judges_awaited", judges=list(asked.configured), seconds=judges_limit(asked))
        try:
            while self._pool_calls.open or not all(servers.ready for servers in self._judge_servers):
                self._poll(WAIT_SECONDS)
        except ServersFailed as error:
            raise RunFailed(str(error)) from error
        for judge, servers in result_of("reward pool", self._pool.start.remote(), scoring_limit(self._config)).items():
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

    def publish(self) -> WeightProof:
        publishing, first = self.learner.publish(), not self.fleet.pids()
        self.fleet.send(publishing.weights)
        published = self.learner.announced(publishing)
        self.fleet.announce(published)
        while first and self.capacity() == 0:  # starting up ends when there is a worker that can work
            self._poll(WAIT_SECONDS)
        return published

    def capacity(self) -> int:
        return self.fleet.capacity()

    def submit(self, lease: Lease) -> None:
        def done(generated: Generated, group: ray.ObjectRef) -> None:
            self._notify(
                "generated",
                group=lease.group_id,
                pid=generated.pid,
                version=generated.policy_version,
                seconds=round(generated.seconds, 4),
            )
            self._when_answered(
                self._pool_calls, self._pool.score.remote(group), lambda ref: self._scored(generated, group, ref)
            )

        def failed(why: str, spoiled: bool) -> None:
            self._inbox.append(Lost(lease, why, spoiled))

        self.fleet.submit(Job("roll_out", (lease,), done, failed))

    def _scored(self, generated: Generated, group: ray.ObjectRef, ref: ray.ObjectRef) -> None:
        try:
            scores: GroupScores = result_of("reward pool", ref, FETCH_SECONDS)
        except (GroupLost, Spoiled) as error:
            self._inbox.append(Lost(generated.lease, str(error), isinstance(error, Spoiled)))
            return
        self._inbox.append(Delivered(generated, scores, handle=group))

    def next_delivery(self, timeout: float) -> Delivered | Taken | Lost | None:
        if not self._inbox:
            self._poll(timeout)
        return self._inbox.popleft() if self._inbox else None

    def pool_statistics(self) -> Mapping[str, float]:
        if not self._config.rewards.judge.configured:
            return {}
        found: Mapping[str, float] = result_of(
            "reward pool", self._pool.statistics.remote(), scoring_limit(self._config)
        )
        return found

    def consume(self, delivered: Delivered) -> None:
        refs = self.learner.consume(delivered)
        losses: list[GroupLost | Spoiled | None] = []

        def answered(ref: ray.ObjectRef) -> None:
            try:
                result_of("learner", ref, FETCH_SECONDS)
                losses.append(None)
            except (GroupLost, Spoiled) as error:
                losses.append(error)
            if len(losses) == len(refs):
                self._inbox.append(outcome(delivered.lease, losses))

        for ref in refs:
            self._when_answered(self._learner_calls, ref, answered)

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        refs, limit = self.learner.update(), step_limit(self._config)
        reports: dict[ray.ObjectRef, StepReport] = {}

        def reported(ref: ray.ObjectRef) -> None:
            reports[ref] = result_of("learner", ref, FETCH_SECONDS)

        for ref in refs:
            self._when_ready(ref, reported)
        deadline = time.monotonic() + limit
        while len(reports) < len(refs):
            left = deadline - time.monotonic()
            if left <= 0:
                raise LearnerLost(
                    f"The learner did not finish its step within {limit:g} s (cluster.group_timeout * "
                    "learner.groups_per_step). Continue from the last checkpoint with --resume."
                )
            if self._failure is not None:  # told by the next `_poll`: first the step that is under way
                ray.wait(refs, num_returns=len(refs), timeout=left)
                reports.update({ref: result_of("learner", ref, FETCH_SECONDS) for ref in refs})
                break
            try:
                self._poll(WAIT_SECONDS)
                meanwhile()
            except LearnerLost:
                raise
            except RunFailed as error:
                self._failure = error
        return self.learner.step_of([reports[ref] for ref in refs])

    def images(self, delivered: Delivered) -> Image | None:
        pictures = self._pool.images.remote(delivered.handle)
        try:
            found: Image = result_of("reward pool", pictures, scoring_limit(self._config))
        except GroupLost:  # the learner has the group; a gallery does without
            return None
        return found

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        def ask(chunk: list[int], pictures: ray.ObjectRef, call: Callable[[ray.ObjectRef], None]) -> None:
            self._when_answered(self._pool_calls, self._pool.measure.remote(chunk, pictures, "held_out"), call)

        jobs = HeldOutJobs(self.fleet, ask, base, self._config.cluster.max_attempts)
        return jobs.measure(indices, shown, wait=lambda: self._poll(WAIT_SECONDS))

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        return self.learner.save(extra)

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        exported = self.learner.export(folder.resolve(), metadata)
        return replace(exported, path=folder / exported.path.name)

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
        self._watch.close()
        self._runtime.close()

    def _raylet_lost(self) -> None:
        """Ends the run where it is: without its raylet the learner, which alone could save, ends too, and Ray would end
        this process before it has wound up."""
        self._notify(
            "failed",
            error=RunInterrupted.__name__,
            reason=(
                "Ray's process on this node (raylet) has ended: it was killed, or the node ran out of memory. Continue "
                f"from the last checkpoint with: {resume(self._folder)}"
            ),
        )
        os._exit(exits.RESUMABLE)

    def _when_ready(self, ref: ray.ObjectRef, call: Callable[[ray.ObjectRef], None]) -> None:
        self._waiting[ref] = call

    def _when_answered(self, calls: Calls, ref: ray.ObjectRef, call: Callable[[ray.ObjectRef], None]) -> None:
        """As `_when_ready`, of a process that must not hang (see `_look`)."""
        calls.began()

        def answered(ref: ray.ObjectRef) -> None:
            calls.ended()
            call(ref)

        self._when_ready(ref, answered)

    def _poll(self, timeout: float) -> None:
        """Waits until something happens and calls back for all that did; looks after the processes meanwhile."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        deadline = time.monotonic() + timeout
        while True:
            happened, arrived = self._call_back(), len(self._inbox)
            # Only now: a job that ended while this process was busy elsewhere is not overdue.
            if not happened or time.monotonic() > self._looked_at + WAIT_SECONDS:
                self._look()
            left = deadline - time.monotonic()
            if happened or len(self._inbox) > arrived or left <= 0:
                return
            if self._waiting:
                ray.wait(list(self._waiting), num_returns=1, timeout=min(left, WAIT_SECONDS), fetch_local=False)
            else:  # everybody waits to be started again
                time.sleep(min(left, PAUSE_SECONDS))

    def _look(self) -> None:
        """Does what is due, and ends what takes too long."""
        self._looked_at = time.monotonic()
        with _fleet_faults():
            self.fleet.check()
        self._look_at_desired()
        for servers in self._judge_servers:
            servers.check()
        if self._pool_calls.silent_for() > scoring_limit(self._config):
            raise overdue(self._config, self._pool_calls.open)
        limit = taking_limit(self._config.cluster)
        if self._learner_calls.silent_for() > limit:
            raise LearnerLost(
                f"The learner has taken none of {self._learner_calls.open} groups for {limit:g} s "
                "(cluster.group_timeout), so it hangs. Continue from the last checkpoint with --resume."
            )

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
