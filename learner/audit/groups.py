"""The life of every lease: leased, generated, scored, on disk, and then trained, rejected or requeued."""

from __future__ import annotations

from dataclasses import dataclass

from learner.audit.history import History, Rule
from learner.scheduling.sampler import LeaseSampler
from learner.state.event_types import Began
from learner.state.group_events import Generated, GroupReason, Leased, OfGroup, Scored, Spooled, TaskSkipped, Trained

MOST_TASKS = 10**7
"""Training tasks whose order is drawn here again: far more than a run can open."""


@dataclass
class _Group:
    """One lease of the present process. `made`: version that generated it; `kept`: it is on disk, or known not to be;
    `end`: trained, rejected or requeued."""

    task: int
    attempt: int
    version: int
    made: int | None = None
    valid: int | None = None
    kept: bool = False
    end: str = ""


def place_of(group: str) -> tuple[int, int, int]:
    """Step, slot and attempt of a group's name."""
    step, slot, attempt = map(int, group.split("."))
    return step, slot, attempt


class Groups(Rule):
    """The life of each group."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._groups: dict[str, _Group] = {}  # of this process
        self._newest: dict[tuple[int, int], _Group] = {}  # by step and slot
        self._expected = (0, 0)  # step and slot of the next first attempt
        self._skipped: set[int] = set()  # tasks that went bad
        self._requeued = -1  # task of the last group that was requeued
        self._scored: dict[str, tuple[int, int, int]] = {}  # version, valid scores and task, of all processes
        self._order: LeaseSampler | None = None  # of this process

    def begin(self, record: Began) -> None:
        self.history.counts["in flight when a process ended"] += self._in_flight()
        self._groups, self._newest, self._skipped = {}, {}, set()
        self._expected = (record.step, 0)
        self._order = None
        if record.train_tasks <= MOST_TASKS:
            self._order = LeaseSampler(record.seed, record.train_tasks, record.groups_per_step)
        else:
            self.history.fault("P2", f"expected at most {MOST_TASKS:,} training tasks, got {record.train_tasks:,}")

    def close(self) -> None:
        lost = self._in_flight()
        self.history.counts["in flight at the end"] = lost
        if lost and self.history.last == "finished":
            first = next(name for name, group in self._groups.items() if not group.end)
            self.history.fault("P2", f"the run finished, but {lost} groups have no end, such as {first}")

    def _in_flight(self) -> int:
        return sum(not group.end for group in self._groups.values())

    def on_leased(self, record: Leased) -> None:
        history, name = self.history, record.group
        process, (step, slot, attempt) = history.process, place_of(name)
        if name in self._groups:
            history.fault("P2", f"group {name} was leased twice")
        if record.version != history.published:
            history.fault(
                "P4", f"group {name} was leased under version {record.version}, published was {history.published}"
            )
        last = min(process.steps - 1, record.version + process.staleness)
        if not history.done <= step <= last:
            history.fault(
                "P3",
                f"group {name} was leased after {history.done} steps under version {record.version}; "
                f"expected one of steps {history.done} to {last}",
            )
        self._place(name, step, slot, record.task)
        expected = None if self._order is None else self._order.task(step, slot)
        if expected is not None and record.task != expected:
            history.fault(
                "P2", f"group {name} is for task {record.task}, but in the run's order task {expected} comes there"
            )
        before = self._newest.get((step, slot))
        if before is None:
            self._first_attempt(name, step, slot, attempt)
        else:
            self._next_attempt(name, attempt, before)
        self._groups[name] = self._newest[step, slot] = _Group(record.task, attempt, record.version)

    def _place(self, name: str, step: int, slot: int, task: int) -> None:
        history, process = self.history, self.history.process
        if slot >= process.groups_per_step:
            history.fault("P1", f"group {name} has slot {slot}, but a step has {process.groups_per_step} groups")
        if task >= process.train_tasks:
            history.fault("P2", f"group {name} is for task {task}, but there are {process.train_tasks}")
        if task in self._skipped:
            history.fault("P2", f"group {name} is for task {task}, which went bad before")

    def _first_attempt(self, name: str, step: int, slot: int, attempt: int) -> None:
        """First attempts go out slot by slot and step by step, but for groups that came from the spool."""
        history, process = self.history, self.history.process
        while self._expected in self._newest:
            self._expected = self._after(self._expected)
        if (step, slot) != self._expected:
            history.fault(
                "P2", f"group {name} was leased, but slot {self._expected[1]} of step {self._expected[0]} comes first"
            )
        self._expected = self._after((step, slot))
        first = int(process.anew_from is not None and step >= process.anew_from)
        # A task that went bad before its group was leased costs an attempt.
        if attempt != first and not (self._skipped and attempt == first + 1):
            history.fault("P2", f"group {name} is attempt {attempt}, but there was none before it")

    def _after(self, place: tuple[int, int]) -> tuple[int, int]:
        step, slot = place
        return (step, slot + 1) if slot + 1 < self.history.process.groups_per_step else (step + 1, 0)

    def _next_attempt(self, name: str, attempt: int, before: _Group) -> None:
        history, skipped = self.history, before.task in self._skipped
        if before.end not in ("rejected", "requeued"):
            history.fault("P2", f"group {name} was leased, but attempt {before.attempt} was {before.end or 'not lost'}")
        if attempt != before.attempt + 1 and not (skipped and attempt == before.attempt + 2):
            history.fault("P2", f"group {name} is attempt {attempt}, the one before it was {before.attempt}")

    def on_replayed(self, record: Leased) -> None:
        history, name = self.history, record.group
        step, slot, attempt = place_of(name)
        history.counts["replayed"] += 1
        version, valid, task = self._scored.get(name, (None, None, record.task))
        if version != record.version:
            history.fault(
                "P4",
                f"group {name} was taken from the spool as of version {record.version}, but it was "
                + ("never scored" if version is None else f"generated under {version}"),
            )
        if task != record.task:
            history.fault(
                "P2", f"group {name} was taken from the spool for task {record.task}, but it was scored for task {task}"
            )
        if history.published is None:
            history.fault("P4", f"group {name} was taken from the spool before the weights were published")
        if (step, slot) in self._newest:
            history.fault("P2", f"group {name} was taken from the spool, but slot {slot} of step {step} has a group")
        if step < history.done:
            history.fault("P1", f"group {name} was taken from the spool after {history.done} steps")
        self._place(name, step, slot, record.task)
        self._groups[name] = self._newest[step, slot] = _Group(
            record.task, attempt, record.version, made=record.version, valid=valid, kept=True
        )

    def _known(self, name: str, what: str) -> _Group | None:
        group = self._groups.get(name)
        if group is None:
            self.history.fault("P2", f"group {name} was {what}, but never leased by this process")
        return group

    def on_generated(self, record: Generated) -> None:
        name, group = record.group, self._known(record.group, "generated")
        if group is None:
            return
        if group.made is not None or group.end:
            self.history.fault("P4", f"group {name} was generated, but it was {group.end or 'there'} already")
        if record.version != group.version:
            self.history.fault(
                "P4", f"group {name} was leased under version {group.version} and generated under {record.version}"
            )
        group.made = record.version

    def on_scored(self, record: Scored) -> None:
        history, name, group = self.history, record.group, self._known(record.group, "scored")
        size, lacking = history.process.group_size, sum((record.invalid or {}).values())
        if record.valid > size or size - record.valid > lacking or (record.valid == size) != (not lacking):
            history.fault(
                "P6",
                f"group {name} has {size} candidates, {record.valid} with all scores, and {lacking} "
                "scores are missing, which does not add up",
            )
        if group is None:
            return
        if group.made is None or group.valid is not None or group.end:
            history.fault(
                "P2",
                f"group {name} was scored, but it was "
                + (group.end or ("never generated" if group.made is None else "scored before")),
            )
        group.valid = record.valid
        self._scored[name] = (group.version, record.valid, group.task)

    def on_spooled(self, record: Spooled | GroupReason) -> None:
        group = self._known(record.group, "spooled")
        if group is None:
            return
        if group.valid is None or group.kept or group.end:
            why = group.end or ("never scored" if group.valid is None else "spooled before")
            self.history.fault("P5", f"group {record.group} was spooled, but it was {why}")
        group.kept = True

    on_not_spooled = on_spooled

    def on_trained(self, record: Trained) -> None:
        history, name, group = self.history, record.group, self._known(record.group, "trained on")
        age = record.step - record.version
        if not 0 <= age <= history.process.staleness:
            history.fault("P3", f"group {name} was {age} steps old, the limit is {history.process.staleness}")
        if group is None:
            return
        if group.made != record.version:
            history.fault(
                "P4", f"group {name} was generated under version {group.made} and trained on as {record.version}"
            )
        if group.valid is None or group.valid < history.process.min_valid:
            history.fault(
                "P6",
                f"group {name} was trained on, but "
                + (
                    "it was never scored"
                    if group.valid is None
                    else f"{group.valid} of its candidates have all scores, rewards.min_valid is "
                    f"{history.process.min_valid}"
                ),
            )
        if not group.kept:
            history.fault("P5", f"group {name} was trained on, but never spooled")
        self._end(name, group, "trained")

    def on_rejected(self, record: GroupReason) -> None:
        group = self._known(record.group, "rejected")
        if group is not None:
            if group.valid is None:
                self.history.fault("P2", f"group {record.group} was rejected, but never scored")
            self._end(record.group, group, "rejected")

    def on_requeued(self, record: GroupReason) -> None:
        group = self._known(record.group, "requeued")
        if group is not None:
            self._requeued = group.task
            self._end(record.group, group, "requeued")

    def _end(self, name: str, group: _Group, how: str) -> None:
        if group.end:
            self.history.fault("P2", f"group {name} was {group.end} and then {how}")
        group.end = how

    def on_duplicate(self, record: OfGroup) -> None:
        self._known(record.group, "delivered twice")

    def on_task_skipped(self, record: TaskSkipped) -> None:
        if record.split is not None:
            return
        if self.history.last != "requeued" or record.task != self._requeued or record.task in self._skipped:
            self.history.fault(
                "P2",
                f"task {record.task} went bad, but the line before it is not that of a group of "
                "it that was requeued for that",
            )
        self._skipped.add(record.task)
        # Without a task that is left, the run ends.
        if self._order is not None and record.task < self._order.num_tasks > len(self._skipped):
            self._order.skip(record.task)
