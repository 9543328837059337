"""The rollout workers as Ray actors: weights, jobs, and what follows from the loss of a worker.

A fleet does not wait by itself: what waits for a worker is a coroutine, and the fleet's owner resumes it, so that one
place sees everything that happens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from actors.slots import Slots, Worker
from actors.worker import GROUP_FAULTS, Receipt, RolloutWorker, WrongVersion
from configs.schema import RunConfig
from editing.task import Image, TaskError
from editing.trajectory import Shown
from editing.weights import WeightProof
from locus.common.ray_coroutines import Coroutines, ready
from locus.common.ray_errors import GONE, reason_of
from locus.common.restarts import RestartPolicy

FETCH_SECONDS = 60.0
"""For an answer that is there already."""


class FleetError(RuntimeError):
    """The fleet cannot work; the sentence says why and what to do."""


class WrongWeights(RuntimeError):
    """Workers take over other weights than those that are trained: a fault of code or installation, not of a worker."""


class JobFailed(RuntimeError):
    """A job has no result. `spoiled` tells that a task went bad, so that another attempt is in vain."""

    def __init__(self, reason: str, spoiled: bool = False) -> None:
        super().__init__(reason)
        self.spoiled = spoiled


@dataclass(eq=False)
class _Sent:
    """Weights on their way; they need not wait for what they are announced as."""

    weights: ray.ObjectRef
    announced: WeightProof | None = None


class RolloutActor(RolloutWorker):
    """A rollout worker whose large results stay where they are: each comes with a small message."""

    def held_out(self, indices: list[int], base: bool) -> tuple[int, list[Image]]:
        """The process, and the images of `sample_held_out`."""
        return os.getpid(), self.sample_held_out(indices, base)

    def shown(self, indices: list[int], base: bool) -> tuple[list[Shown], None]:
        """What `show_held_out` gives, as the message."""
        return self.show_held_out(indices, base), None


class Fleet:
    """Keeps as many workers alive as are desired and gives jobs to those that proved the newest weights.

    A worker that dies, or that takes longer than `cluster.group_timeout` for its oldest job or for new weights, is
    replaced (see `actors.slots` for when, and how often); its jobs fail, each with the reason. Jobs of one worker run
    one after the other, and new weights wait in the same line, so that a job sees one version from beginning to end.

    A worker that raises what it should not is replaced too; when another one raises the same, the fleet gives up.

    A worker that does not hold what was published gets the weights once more, and is replaced when that does not help.
    Where that was a fresh process, which never held any, the fleet gives up: no other will do better.
    """

    def __init__(
        self,
        config: RunConfig,
        options: dict[str, object],
        coroutines: Coroutines,
        notify: Callable[..., None],
        policy: RestartPolicy | None = None,
        tasks: ray.ObjectRef | None = None,
    ) -> None:
        """`options` are Ray's for a worker; `notify(event, **fields)` hears of workers started, lost and drained.

        The owner resumes `coroutines`, to which the fleet adds its own. The restart policy is the configuration's,
        unless given. `tasks` are the run's, which every worker is handed; without them each opens its own.
        """
        cluster = config.cluster
        self._config, self._coroutines, self._notify, self._tasks = config, coroutines, notify, tasks
        self._actor = ray.remote(RolloutActor).options(scheduling_strategy="SPREAD", **options)
        self._sent: _Sent | None = None
        self._last_proof = time.monotonic()
        self._errors: dict[str, Worker] = {}  # who first raised what
        self._too_few: FleetError | None = None
        self.slots = Slots(
            cluster.rollout_workers,
            policy or RestartPolicy(cluster.max_restarts),
            cluster.min_rollout_workers,
            time.monotonic(),
        )
        self._start_due()

    def send(self, weights: ray.ObjectRef) -> None:
        """Sends new weights to all; a worker gets no further job until it has proved that it holds them."""
        self._sent = _Sent(weights)
        self._last_proof = time.monotonic()
        for worker in self.slots.workers():
            self._send_weights(worker)

    def announce(self, announced: WeightProof) -> None:
        """Says what proves that a worker holds the weights sent last; no worker has proved anything before."""
        assert self._sent is not None, "send() comes first"
        self._sent.announced = announced

    def resize(self, desired: int) -> None:
        """Changes the number of workers: more are started now, and those too many finish their jobs first."""
        before = self.slots.desired
        self.slots.resize(desired, time.monotonic())
        self._notify("fleet_resized", before=before, after=desired)
        self._start_due()
        self._end_drained()

    def capacity(self) -> int:
        """How many more jobs the workers that proved the newest weights will take."""
        limit = self._config.cluster.groups_in_flight
        return sum(max(0, limit - len(worker.jobs)) for worker in self._proved())

    async def run(self, method: str, *arguments: Any) -> tuple[Any, ray.ObjectRef]:
        """A job: calls a method of the least busy worker, which returns a small message and a large object.

        Only when `capacity` is above zero. Returns the message and the reference of the object.

        Raises:
            JobFailed: when the worker is lost first, or for the reason that the worker gives.
            FleetError: when the fleet gives up, instead; also WrongWeights.
        """
        worker = min(self._proved(), key=lambda one: len(one.jobs))
        message, result = getattr(worker.handle, method).options(num_returns=2).remote(*arguments)
        self.slots.give(worker, message, time.monotonic())
        await ready(message)
        if message in worker.jobs:
            try:
                small = ray.get(message, timeout=FETCH_SECONDS)
            except (*GONE, GetTimeoutError) as error:
                self._lose(worker, reason_of(error), error)
            except GROUP_FAULTS as error:
                self.slots.settle(worker, message, time.monotonic())
                if isinstance(error, WrongVersion) and worker.held is not None:
                    # It proved weights that it does not work with. Its next jobs, already in line, say the same.
                    self._wrong(worker, self._announced, reason_of(error))
                raise JobFailed(reason_of(error), isinstance(error, TaskError)) from error
            except ObjectLostError as error:
                self.slots.settle(worker, message, time.monotonic())
                raise JobFailed(f"its message was lost: {reason_of(error)}") from error
            except RayTaskError as error:
                self._raised(worker, error)
            else:
                self.slots.settle(worker, message, time.monotonic())
                self.slots.succeed(worker)
                return small, result
            await ready(message)  # its turn: the jobs of a lost worker fail in the order in which it was given them
        raise JobFailed(worker.lost)

    def pids(self) -> list[int]:
        """The processes of the workers that have proved weights."""
        return [worker.pid for worker in self.slots.workers() if worker.pid is not None]

    def check(self) -> None:
        """Starts workers that are due, and ends those that have drained or are overdue.

        Overdue is a worker whose oldest job, or whose proof of new weights, takes too long. One that has never proved
        any may still be loading, or waiting to be scheduled.

        Raises:
            FleetError: when for as long no worker has been ready at all, or too many were given up.
        """
        now, limit = time.monotonic(), self._config.cluster.group_timeout
        for worker in self.slots.workers():
            behind = worker.pid is not None and self._announced is not None and worker.held != self._announced
            if (worker.jobs or behind) and now - worker.since > limit:
                self._lose(worker, f"no response within {limit:g} s (cluster.group_timeout)")
        self.raise_if_too_few()
        self._end_drained()
        self._start_due()
        if self.pids() or self._sent is None:
            self._last_proof = now
        elif now - self._last_proof > limit:
            raise FleetError(
                f"No rollout worker became ready within {limit:g} s (cluster.group_timeout). Raise it if the editor "
                "takes longer to load; if the cluster lacks the GPUs that cluster.gpus_per_rollout_worker asks for, "
                "lower that or cluster.rollout_workers."
            )

    def raise_if_too_few(self) -> None:
        """Raises FleetError when too many workers were given up; their jobs have been handed back."""
        if self._too_few is not None:
            raise self._too_few

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.slots.workers():
            ray.kill(worker.handle, no_restart=True)
        self.slots = Slots(0, self.slots.policy, self.slots.floor, 0.0)

    @property
    def _announced(self) -> WeightProof | None:
        return self._sent.announced if self._sent is not None else None

    def _proved(self) -> list[Worker]:
        return self.slots.ready(self._announced)

    def _start_due(self) -> None:
        for slot in self.slots.due(time.monotonic()):
            slot.worker = Worker(self._actor.remote(self._config, tasks=self._tasks), since=time.monotonic())
            if self._sent is not None:
                self._send_weights(slot.worker)

    def _end_drained(self) -> None:
        for worker in self.slots.drained():
            ray.kill(worker.handle, no_restart=True)
            self._notify("worker_drained", pid=worker.pid, left=self.slots.left())

    def _send_weights(self, worker: Worker) -> None:
        assert self._sent is not None, "send() comes first"
        self._coroutines.start(self._prove(worker, self._sent))

    async def _prove(self, worker: Worker, sent: _Sent) -> None:
        """Sends weights to a worker, and sees to it that it holds what they were announced as meanwhile."""
        if not worker.jobs:
            worker.since = time.monotonic()
        answer = worker.handle.set_weights.remote(sent.weights)
        await ready(answer)
        if self.slots.slot_of(worker) is None:
            return
        try:
            receipt: Receipt = ray.get(answer)
        except GONE as error:
            self._lose(worker, reason_of(error), error)
            return
        except (RayTaskError, ObjectLostError) as error:  # refused, or lost on the way
            self._wrong(worker, sent.announced, reason_of(error), isinstance(error, ObjectLostError))
            return
        held = receipt.proof
        if held != sent.announced:
            self._wrong(worker, sent.announced, f"it holds {held} instead of {sent.announced}")
            return
        worker.held = held
        if worker.pid is None:
            worker.pid = receipt.pid
            self._notify("worker_started", pid=receipt.pid, version=held.version)

    def _wrong(self, worker: Worker, announced: WeightProof | None, reason: str, gone: bool = False) -> None:
        """The worker does not hold the weights that it was sent; `gone`: because no node has them any more."""
        if announced != self._announced:
            return  # newer ones are on their way already
        worker.wrong += 1
        if worker.wrong == 1:
            assert announced is not None
            worker.held = None
            self._notify("weights_repushed", pid=worker.pid, version=announced.version, reason=reason)
            self._send_weights(worker)
        elif gone:
            raise FleetError(f"The published weights are gone with the node that held them: {reason}")
        elif worker.pid is None:
            raise WrongWeights(
                f"A rollout worker that was just started did not take over the published weights, twice: {reason}. "
                "So it is not the worker; it would generate with other weights than those that are trained. Check that "
                "all nodes have the same code, libraries and editor.path."
            )
        else:
            self._lose(worker, f"wrong weights, after they were sent again: {reason}")

    def _raised(self, worker: Worker, error: RayTaskError) -> None:
        """A worker raised what it should not: it is replaced, unless it is not the worker.

        Raises:
            FleetError: when another process raised the same.
        """
        reason = reason_of(error)
        if self._errors.setdefault(reason, worker) is not worker:
            raise FleetError(f"Rollout workers fail, one like the other: {reason}") from error
        self._lose(worker, reason, error)

    def _lose(self, worker: Worker, reason: str, error: Exception | None = None) -> None:
        """Gives the worker up, and its jobs back. If too few are left, `raise_if_too_few` says so, from `error`."""
        slot = self.slots.slot_of(worker)
        if slot is None:
            return
        worker.lost = reason
        loss = self.slots.lose(worker, time.monotonic())
        # Dead already, unless it hangs or Ray has only lost sight of it: it must not keep its GPU.
        ray.kill(worker.handle, no_restart=True)
        self._notify(
            "worker_lost", pid=worker.pid, reason=reason, jobs=len(loss.jobs), slot=slot.number, again_in=loss.again_in
        )
        if slot.given_up:
            self._notify("worker_given_up", slot=slot.number, losses=slot.losses, left=self.slots.left(), reason=reason)
        self._coroutines.wake(*loss.jobs)
        if self.slots.too_few():
            self._too_few = FleetError(
                f"{self.slots.left()} rollout workers are left, expected at least "
                f"{min(self.slots.floor, self.slots.desired)} (cluster.min_rollout_workers): each of the others "
                f"was lost {slot.losses} times in a row without finishing a group (cluster.max_restarts); the last "
                f"time: {reason}"
            )
            self._too_few.__cause__ = error
