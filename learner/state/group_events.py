"""Events of one group, from its lease to its end."""

from __future__ import annotations

from typing import Literal

from learner.state.event_record import Count, GroupId, Positive, Record, Seconds


class Leased(Record):
    """A task goes out to be rolled out under the published version. `replayed`: its group came from the spool."""

    group: GroupId
    task: Count
    version: Count


class Generated(Record):
    """A process rolled the group out."""

    group: GroupId
    pid: Positive
    version: Count
    seconds: Seconds


class Scored(Record):
    """The group's scores arrived: how many candidates have all, and how many lack which, by component and reason."""

    group: GroupId
    valid: Count
    seconds: Seconds
    invalid: dict[str, Positive] | None = None


class Spooled(Record):
    """The group was on disk before it was used."""

    group: GroupId
    seconds: Seconds


class Trained(Record):
    """The group's gradient is in the weights after `step` + 1 steps; `version` made it."""

    group: GroupId
    step: Count
    version: Count


class OfGroup(Record):
    """A delivery of a group that is not in flight."""

    group: GroupId


class GroupReason(Record):
    """A group that may not be trained on, will not arrive, or is used without being on disk."""

    group: GroupId
    reason: str


class TaskSkipped(Record):
    """A task went bad; without `split` one of training."""

    task: Count
    reason: str
    split: Literal["held-out"] | None = None
