"""Events of workers, judges and the score cache."""

from __future__ import annotations

from learner.state.event_record import Count, Positive, Record, Seconds


class WorkerStarted(Record):
    """A process proved for the first time that it holds published weights."""

    pid: Positive
    version: Count


class WorkerLost(Record):
    """A worker is gone; `pid` is unknown of one that never proved weights, `again_in` null when it is not replaced."""

    pid: Positive | None
    reason: str
    jobs: Count
    slot: Count
    again_in: Seconds | None


class WorkerGivenUp(Record):
    """A worker that was lost too often is not replaced."""

    slot: Count
    losses: Positive
    left: Count
    reason: str


class WorkerDrained(Record):
    """A worker was ended because fewer are wanted."""

    pid: Positive | None
    left: Count


class FleetResized(Record):
    """How many workers are wanted."""

    before: Count
    after: Count


class WeightsRepushed(Record):
    """A worker did not hold what was published."""

    pid: Positive | None
    version: Count
    reason: str


class JudgesAwaited(Record):
    judges: list[str]
    seconds: Seconds


class JudgeReady(Record):
    judge: str
    servers: Count


class JudgeTrouble(Record):
    """What changed since the last look, for the worse or back."""

    judge: str
    servers: Count
    unanswered: int
    refused: int
    bad: int


class CacheTrouble(Record):
    """The score cache began to fail, or (`faults` 0) responds again."""

    faults: Count


class JudgeServerStarted(Record):
    judge: str
    replica: Count
    url: str
    pid: Positive
    seconds: Seconds


class JudgeServerLost(Record):
    judge: str
    replica: Count
    pid: Positive | None
    reason: str
    again_in: Seconds
