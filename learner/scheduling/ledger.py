"""Lease accounting of a run: every lease ends in exactly one state, and no group is trained on twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from editing.trajectory import Generated, Lease
from learner.reporting.records import Counters
from rewards.result import GroupScores


class LedgerError(RuntimeError):
    """The lease counters do not balance: a fault of the program, never of the data."""


class Ledger:
    """Keeps the leases in flight and counts how the others ended.

    Invariant, checked by `balance`: leased = trained + rejected + requeued + in flight. A lease is in flight
    from `lease` until exactly one of `train`, `reject` or `requeue` names it. Only the first delivery counts.
    """

    def __init__(self, saved: Mapping[str, int] | None = None) -> None:
        """Starts the lease counters; those of a resumed run go on from `saved`. What was in flight then counts as
        requeued, whether it comes from the spool or is rolled out again."""
        before = Counters(**(saved or {}))
        self._in_flight: dict[str, Lease] = {}
        self._delivered: set[str] = set()
        self._seen: set[str] = set()
        self._leased, self._trained, self._rejected = before.leased, before.trained, before.rejected
        self._requeued, self._replayed = before.requeued + before.in_flight, before.replayed

    def lease(self, lease: Lease) -> None:
        """A lease goes out.

        Raises:
            LedgerError: when this group id has been leased before.
        """
        if lease.group_id in self._seen:
            raise LedgerError(f"group {lease.group_id} is leased a second time")
        self._seen.add(lease.group_id)
        self._in_flight[lease.group_id] = lease
        self._leased += 1

    def replay(self, lease: Lease) -> None:
        """A lease whose group is there already, in the spool.

        Raises:
            LedgerError: as `lease`.
        """
        self.lease(lease)
        self.deliver(lease)
        self._replayed += 1

    def awaits(self, lease: Lease) -> bool:
        """Whether this lease is out and was not delivered yet; otherwise what arrives is late or doubled."""
        return self._in_flight.get(lease.group_id) == lease and lease.group_id not in self._delivered

    def deliver(self, lease: Lease) -> None:
        """The group arrived; it stays in flight until it is trained on or rejected.

        Raises:
            LedgerError: when it is not awaited.
        """
        if not self.awaits(lease):
            raise LedgerError(f"group {lease.group_id} arrived, but is not awaited")
        self._delivered.add(lease.group_id)

    def lose(self, lease: Lease) -> None:
        """A group that had arrived is gone, with the node that held it; it is awaited again.

        Raises:
            LedgerError: when it had not arrived.
        """
        if lease.group_id not in self._delivered:
            raise LedgerError(f"group {lease.group_id} was lost, but had not arrived")
        self._delivered.discard(lease.group_id)

    def mark_trained(self, lease: Lease) -> None:
        """The group's gradient is in the weights."""
        self._leave(lease, delivered=True)
        self._trained += 1

    def reject(self, lease: Lease) -> None:
        """The group arrived but may not be trained on."""
        self._leave(lease, delivered=True)
        self._rejected += 1

    def requeue(self, lease: Lease) -> None:
        """The group will not arrive."""
        self._leave(lease, delivered=False)
        self._requeued += 1

    def _leave(self, lease: Lease, delivered: bool) -> None:
        name = lease.group_id
        if self._in_flight.get(name) != lease:
            raise LedgerError(f"group {name} is not in flight: it was never leased, or it is settled")
        if (name in self._delivered) != delivered:
            raise LedgerError(f"group {name} was {'not ' if delivered else ''}delivered before it was settled")
        del self._in_flight[name]
        self._delivered.discard(name)

    @property
    def counters(self) -> Counters:
        return Counters(
            self._leased, self._trained, self._rejected, self._requeued, len(self._in_flight), self._replayed
        )

    def state(self) -> dict[str, int]:
        """The counters as JSON, for a checkpoint."""
        return asdict(self.counters)

    def balance(self) -> Counters:
        """The counters, after checking that they add up.

        Raises:
            LedgerError: when they do not.
        """
        now = self.counters
        if now.leased != now.trained + now.rejected + now.requeued + now.in_flight:
            raise LedgerError(f"leased = trained + rejected + requeued + in flight does not hold: {now}")
        return now


def mismatch(generated: Generated, scores: GroupScores, config_hash: str) -> str | None:
    """Why a group may not be trained on although it arrived whole, or None.

    A group and its scores belong to one lease, to the one policy version that the lease asked for, and to this
    configuration.
    """
    lease = generated.lease
    if scores.group_id != lease.group_id:
        return f"its scores are those of group {scores.group_id}"
    if not generated.policy_version == scores.policy_version == lease.policy_version:
        return (
            f"mixed policy versions: generated by {generated.policy_version}, scored as "
            f"{scores.policy_version}, the lease asked for {lease.policy_version}"
        )
    if generated.config_hash != config_hash:
        return f"generated under configuration {generated.config_hash[:12]}, this run is {config_hash[:12]}"
    return None


def staleness(step: int, policy_version: int) -> int:
    """Age of a group in optimizer steps when it is trained on in `step` (0-based).

    Version v is the policy after v steps, so a group made by the newest policy has age 0.
    """
    return step - policy_version
