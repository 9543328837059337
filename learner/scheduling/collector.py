"""Brings the groups of a step to the learner, in the driver: leases ahead, and redoes what is lost or rejected."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import replace

from configs.load import config_hash
from configs.schema import ManifestData, RunConfig
from editing.task import NOT_FINITE
from editing.trajectory import Generated, Lease
from learner.backends.base import Backend, Delivered, Lost, LostOnTheWay, Taken
from learner.errors import RunFailed
from learner.reporting.reporter import Reporter
from learner.scheduling.active_run import FRESH, Resumed
from learner.scheduling.ledger import Ledger, mismatch, staleness
from learner.scheduling.sampler import LeaseSampler, at_version
from learner.state.rollback import Diverged
from learner.state.spool import Spooled
from rewards.compose import admit

POLL_SECONDS = 5.0  # a backend returns sooner when something happens; this only bounds a single wait


class Collector:
    """Leases, receives and hands over groups.

    Who waits for what: workers wait for leases, which exist for steps up to `version + cluster.staleness`; the
    loop waits in `collect` until the learner has taken the groups of its own step; groups of later steps wait in
    `_arrived`. While the learner makes its step, leases go on (`lease`). So at most
    `(staleness + 1) * groups_per_step` groups exist at a time, and a group is never older than `staleness`
    when it is trained on (this is checked again at that moment). Groups that wait for slow judges are among them, so
    they cannot pile up: when all leases of these steps are out, rollouts pause until the judges have caught up.

    At staleness 0 groups reach the learner in the order of their slots, so that a run is reproducible (one that was
    lost on its way comes after those that were handed over meanwhile); above, in the order of their arrival. After a
    resume the groups of the spool have arrived already, and go first, in the order in which the learner took them
    before: what was made after their step was made with the sum in that order.
    """

    def __init__(
        self,
        config: RunConfig,
        backend: Backend,
        sampler: LeaseSampler,
        reporter: Reporter,
        first_step: int,
        resumed: Resumed = FRESH,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            config, backend, sampler, reporter: of the run.
            first_step: optimizer steps done.
            resumed: groups to take again without a rollout, and the lease counters of the checkpoint.
            stop_if_asked: called between pieces of work, where nothing is half done; may raise to end the run.
        """
        self.ledger = Ledger(resumed.counters)
        self._stop_if_asked = stop_if_asked
        self.version = first_step
        self._config, self._backend, self._sampler, self._reporter = config, backend, sampler, reporter
        self._config_hash = config_hash(config)
        self._pending: deque[Lease] = deque()
        self._arrived: dict[int, list[Delivered]] = {}
        self._next_step = first_step
        self._invalid: Counter[str] = Counter()
        self._failures: Counter[tuple[int, int]] = Counter()  # of a slot of a step
        self.spoiled: dict[int, str] = {}
        """Why training tasks went bad since the run was begun or resumed, by index."""
        self._replayed = {(one.lease.step, one.lease.slot) for one in resumed.spooled}
        for one in resumed.spooled:
            self._replay(one)
        self.settled_counters = self.ledger.state()
        """Lease counters after the last finished step: they belong to the weights after it."""

    def collect(
        self, step: int, took: Callable[[Delivered], None], idle: Callable[[], None] = lambda: None
    ) -> list[Delivered]:
        """Hands all groups of a step (0-based) to the learner, calls `took` for each that it has, and returns them
        without their handles, so that only the learner holds the groups themselves. `idle` is called whenever nothing
        has arrived for a while.

        Raises:
            Diverged: when the policy makes nothing but latents or pixels that are not finite.
            RunFailed: when a task failed `cluster.max_attempts` times, too many tasks went bad, or the backend gives
                up.
        """
        taken: list[Delivered] = []
        handed: dict[Lease, Delivered] = {}
        while len(taken) < self._config.learner.groups_per_step:
            self._stop_if_asked()
            delivered = self._next_ready(step, {one.lease.slot for one in (*taken, *handed.values())})
            self.lease()  # before handing over or waiting, so that workers never idle meanwhile
            if delivered is not None:
                if isinstance(delivered.handle, Spooled):
                    delivered = replace(delivered, handle=delivered.handle.load())
                handed[delivered.lease] = delivered
                self._backend.consume(delivered)
                continue
            item = self._backend.next_delivery(POLL_SECONDS)
            if item is None:
                idle()
            elif isinstance(item, Taken):
                delivered = handed.pop(item.lease)
                took(delivered)
                # The learner has it: its latents and images must not live here until the step's end.
                taken.append(replace(delivered, handle=None))
            else:
                if isinstance(item, LostOnTheWay):
                    del handed[item.lease]
                    self.ledger.lose(item.lease)
                self._receive(item)
        return taken

    def settle(self, step: int, taken: list[Delivered]) -> None:
        """Counts the groups of a finished optimizer step as trained."""
        for delivered in taken:
            self.ledger.mark_trained(delivered.lease)
            self._reporter.write(
                "trained", group=delivered.lease.group_id, step=step, version=delivered.lease.policy_version
            )
            self._failures.pop((delivered.lease.step, delivered.lease.slot), None)
        self._arrived.pop(step, None)
        self.settled_counters = self.ledger.state()

    def invalid(self) -> dict[str, int]:
        """How many candidates had no score since the last call, by component and reason, sorted."""
        found, self._invalid = self._invalid, Counter()
        return dict(sorted(found.items()))

    def lease(self) -> None:
        """Gives workers what they can take now."""
        config = self._config
        last = min(config.learner.steps - 1, self.version + config.cluster.staleness)
        while self._next_step <= last:
            self._pending.extend(
                lease
                for lease in self._sampler.leases(self._next_step, self.version)
                if (lease.step, lease.slot) not in self._replayed
            )
            self._next_step += 1
        while self._pending and self._backend.capacity() > 0:
            lease = at_version(self._pending.popleft(), self.version)
            if lease.task_index in self.spoiled:
                lease = self._sampler.redraw(lease, self.version)
            self.ledger.lease(lease)
            self._reporter.write("leased", group=lease.group_id, task=lease.task_index, version=lease.policy_version)
            self._backend.submit(lease)

    def _replay(self, one: Spooled) -> None:
        """The learner had taken this group before the run was cut short; it will again."""
        lease = one.lease
        self.ledger.replay(lease)
        self._reporter.write("replayed", group=lease.group_id, task=lease.task_index, version=lease.policy_version)
        # No process made it now.
        made = Generated(lease, one.task_id, one.policy_version, one.config_hash, one.seconds, pid=0)
        self._arrived.setdefault(lease.step, []).append(Delivered(made, one.scores, handle=one))

    def _next_ready(self, step: int, handed: Collection[int]) -> Delivered | None:
        """The arrived group of a step that is to be handed over next: what was taken before, as it was; otherwise at
        staleness 0 that of the first slot that is not `handed` over yet."""
        arrived, limit = self._arrived.setdefault(step, []), self._config.cluster.staleness
        slot = next((slot for slot in range(self._config.learner.groups_per_step) if slot not in handed), None)
        for delivered in arrived:
            if limit == 0 and delivered.lease.slot != slot and not isinstance(delivered.handle, Spooled):
                continue
            arrived.remove(delivered)
            age = staleness(step, delivered.generated.policy_version)
            if age <= limit:
                return delivered
            self._reject(delivered.lease, f"stale: {age} steps old, cluster.staleness is {limit}")
            return None
        return None

    def _receive(self, item: Delivered | Lost) -> None:
        lease = item.lease
        if not self.ledger.awaits(lease):
            self._reporter.write("duplicate", group=lease.group_id)
            return
        if isinstance(item, Lost):
            self.ledger.requeue(lease)
            self._reporter.write("requeued", group=lease.group_id, reason=item.reason)
            if item.spoiled:
                self._skip(lease, item.reason)
            else:
                # The same weights make the same latents of the same noise.
                useless = NOT_FINITE in item.reason
                self._retry(lease, item.reason, self._sampler.redraw if useless else self._sampler.repeat)
            return
        self.ledger.deliver(lease)
        invalid = item.scores.invalid
        self._invalid.update(invalid)
        self._reporter.write(
            "scored",
            group=lease.group_id,
            valid=sum(item.scores.valid),
            seconds=round(item.scores.seconds, 4),
            **({"invalid": invalid} if invalid else {}),
        )
        # The learner checks the same again when it takes the group, see `learner.update.admission`.
        fault = mismatch(item.generated, item.scores, self._config_hash) or admit(item.scores, self._config.min_valid)
        if fault is not None:
            self._reject(lease, fault)
        else:
            self._arrived.setdefault(lease.step, []).append(item)

    def _reject(self, lease: Lease, reason: str) -> None:
        self.ledger.reject(lease)
        self._reporter.write("rejected", group=lease.group_id, reason=reason)
        self._retry(lease, reason, self._sampler.redraw)

    def _retry(self, lease: Lease, reason: str, next_attempt: Callable[[Lease, int], Lease]) -> None:
        limit, place = self._config.cluster.max_attempts, (lease.step, lease.slot)
        if self._failures[place] >= limit and NOT_FINITE in reason and self.version > 0:
            raise Diverged(
                f"Policy version {self.version} makes latents or pixels that are not finite: a group of step "
                f"{lease.step + 1} was redone {limit} times (cluster.max_attempts) without success. "
                "The cause is not the task but the weights, which have grown too large: lower learner.optimizer.lr or "
                "editor.lora.alpha, and start again."
            )
        if self._failures[place] >= limit:
            raise RunFailed(
                f"A group of step {lease.step + 1} (training task {lease.task_index}, policy version {self.version}) "
                f"was redone {limit} times (cluster.max_attempts) and failed again; the last time: {reason}"
            )
        self._failures[place] += 1
        # In front: the step that is being gathered waits for it.
        self._pending.appendleft(next_attempt(lease, self.version))

    def _skip(self, lease: Lease, reason: str) -> None:
        """Another task takes the place of one that went bad, which is not leased again."""
        self.spoiled[lease.task_index] = reason
        self._reporter.announce("task_skipped", task=lease.task_index, reason=reason)
        data, tasks = self._config.data, self._sampler.num_tasks
        limit = data.max_faulty_fraction if isinstance(data, ManifestData) else 0.0
        if len(self.spoiled) > limit * tasks or len(self.spoiled) == tasks:
            raise RunFailed(
                f"{len(self.spoiled)} of {tasks} training tasks went bad during the run, more than "
                f"data.max_faulty_fraction = {limit:g} allows; the last one: {reason}"
            )
        self._sampler.skip(lease.task_index)
        self._pending.appendleft(self._sampler.redraw(lease, self.version))
