"""The backend on Ray: rollout workers, a reward pool and a learner, each a process of its own.

Groups go worker -> pool -> learner by reference; this process sees only leases, scores and reports. What waits for
another process is a coroutine: a lease's way to the inbox is `_deliver`, and on to the learner `consume`. All of them
go on at one place, `_poll`, which the main loop calls whenever it waits for something.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import FETCH_SECONDS, Fleet, FleetError, JobFailed, WrongWeights
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
from editing.trajectory import Lease
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
from learner.backends.evaluation_jobs import HeldOutJobs, Rows
from learner.backends.learner_group import LearnerGroup
from learner.backends.ray_calls import Calls, outcome
from learner.backends.ray_results import GroupLost, Spoiled, result_of
from learner.backends.reward_worker import PoolActor, secrets
from learner.errors import LearnerLost, RunFailed, RunInterrupted
from learner.reporting.records import Notify
from learner.update.step_report import StepReport
from locus.common.ray_coroutines import Coroutines, ready
from rewards.vllm.replicas import ServersFailed

if TYPE_CHECKING:
    from rewards.vllm.actor import JudgeServers

WAIT_SECONDS = 1.0  # deadlines are looked at this often
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
        self._coroutines = Coroutines()
        self._inbox: deque[Delivered | Taken | Lost] = deque()
        self._learner: LearnerGroup | None = None
        self._fleet: Fleet | None = None
        self._desired = DesiredFile(self._folder, config.cluster)
        self._pool: Any = None
        self._judge_servers: list[JudgeServers] = []
        self._pool_calls, self._learner_calls = Calls("reward pool"), Calls("learner")
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
            self._coroutines,
            self._notify,
            tasks=tasks,
        )
        learner.start(step, allowed)
        if config.rewards.judge.configured:
            self._wait_for_judges()

    def _start_judge_servers(self) -> None:
        def urls_changed(judge: str, urls: list[str]) -> None:
            self._coroutines.start(self._pool_calls.result(self._pool.set_urls.remote(judge, urls)))

        for judge in JUDGES:
            if getattr(self._config.rewards.judge, judge).serve.replicas:
                from rewards.vllm.actor import JudgeServers

                servers = JudgeServers(
                    self._config,
                    judge,
                    self._folder,
                    self._coroutines,
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
        first = not self.fleet.pids()
        published = self._send()
        while first and self.capacity() == 0:  # starting up ends when there is a worker that can work
            self._poll(WAIT_SECONDS)
        return published

    def _send(self, measured: bool = False) -> WeightProof:
        """Sends all workers the weights to roll out under, or those that are `measured`."""
        publishing = self.learner.publish(measured)
        self.fleet.send(publishing.weights)
        announced = self.learner.announced(publishing)
        self.fleet.announce(announced)
        return announced

    def capacity(self) -> int:
        return self.fleet.capacity()

    def submit(self, lease: Lease) -> None:
        self._coroutines.start(self._deliver(lease))

    async def _deliver(self, lease: Lease) -> None:
        """Has a worker roll the lease out and the pool score the group, which arrives in the inbox, or is lost."""
        try:
            generated, group = await self.fleet.run("roll_out", lease)
            self._notify(
                "generated",
                group=lease.group_id,
                pid=generated.pid,
                version=generated.policy_version,
                seconds=round(generated.seconds, 4),
            )
            scores = await self._pool_calls.result(self._pool.score.remote(group))
        except (JobFailed, GroupLost, Spoiled) as error:
            self._inbox.append(Lost(lease, str(error), error.spoiled))
        else:
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

        async def hand_over(ref: ray.ObjectRef) -> None:
            try:
                await self._learner_calls.result(ref)
                losses.append(None)
            except (GroupLost, Spoiled) as error:
                losses.append(error)
            if len(losses) == len(refs):
                self._inbox.append(outcome(delivered.lease, losses))

        for ref in refs:
            self._coroutines.start(hand_over(ref))

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        refs, limit = self.learner.update(), step_limit(self._config)
        reports: dict[ray.ObjectRef, StepReport] = {}

        async def report(ref: ray.ObjectRef) -> None:
            await ready(ref)
            reports[ref] = result_of("learner", ref, FETCH_SECONDS)

        for ref in refs:
            self._coroutines.start(report(ref))
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
        images = self._pool.images.remote(delivered.handle)
        try:
            found: Image = result_of("reward pool", images, scoring_limit(self._config))
        except GroupLost:  # the learner has the group; a gallery does without
            return None
        return found

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        def ask_pool(indices: list[int], images: ray.ObjectRef) -> Coroutine[Any, Any, Rows]:
            return self._pool_calls.result(self._pool.measure.remote(indices, images, "held_out"))

        jobs = HeldOutJobs(self.fleet, ask_pool, self._coroutines.start, base, self._config.cluster.max_attempts)
        mean = None
        if not base and self._config.learner.optimizer.ema is not None:
            mean = self._send(measured=True)
        found = jobs.measure(indices, shown, wait=lambda: self._poll(WAIT_SECONDS))
        if mean is not None:
            self._send()
        return replace(found, running_mean=mean)

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

    def _poll(self, timeout: float) -> None:
        """Waits until coroutines can go on and resumes them; looks after the processes meanwhile."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        deadline = time.monotonic() + timeout
        while True:
            with _fleet_faults():
                resumed = self._coroutines.resume()
                self.fleet.raise_if_too_few()
            # Only now: a job that ended while this process was busy elsewhere is not overdue.
            if not resumed or time.monotonic() > self._looked_at + WAIT_SECONDS:
                self._look()
            left = deadline - time.monotonic()
            if resumed or left <= 0:
                return
            self._coroutines.wait(min(left, WAIT_SECONDS))

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


@contextmanager
def _fleet_faults() -> Iterator[None]:
    """A fleet that gives up ends the run, whose state is saved then like after any other end."""
    try:
        yield
    except (FleetError, WrongWeights) as error:
        raise RunFailed(str(error)) from error
