"""Every event of the event log as a typed record: what `EventLog.write` accepts is what `learner.audit` reads.

Only these fields, of these types, in these ranges: a line that fits is a line that the program can have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from configs.text import shown
from learner.state.event_record import (
    Count,
    EventError,
    Hex,
    LocusVersion,
    Positive,
    Record,
    validated,
)
from learner.state.group_events import Generated, GroupReason, Leased, OfGroup, Scored, Spooled, TaskSkipped, Trained
from learner.state.service_events import (
    CacheTrouble,
    FleetResized,
    JudgeReady,
    JudgesAwaited,
    JudgeServerLost,
    JudgeServerStarted,
    JudgeTrouble,
    WeightsRepushed,
    WorkerDrained,
    WorkerGivenUp,
    WorkerLost,
    WorkerStarted,
)

Event = Literal[
    "started",
    "resumed",
    "leased",
    "generated",
    "scored",
    "spooled",
    "replayed",
    "trained",
    "rejected",
    "requeued",
    "duplicate",
    "task_skipped",
    "step_skipped",
    "rolled_back",
    "data_faults",
    "data_remarks",
    "worker_started",
    "worker_lost",
    "worker_given_up",
    "worker_drained",
    "fleet_resized",
    "resize_refused",
    "weights_repushed",
    "judges_awaited",
    "judge_ready",
    "judge_trouble",
    "cache_trouble",
    "judge_server_started",
    "judge_server_lost",
    "start_measured",
    "alarm",
    "step",
    "published",
    "checkpoint",
    "evaluated",
    "spool_refused",
    "not_spooled",
    "not_saved",
    "stopping",
    "finished",
    "failed",
]


class Began(Record):
    """A process of the run begins: `started` the first one, `resumed` every other.

    Attributes:
        step: optimizer steps done, in the checkpoint that it goes on from.
        locus_version: `locus.__version__`, for information: `code` says exactly what runs. Event logs of earlier
            versions lack it.
        config_hash: see `configs.load.config_hash`.
        changed: keys of the configuration that differ from those of the process before, sorted.
        allowed: what `--allow-changed` named.
        data, code: fingerprints of the tasks and of sources and libraries.
        seed: of the run; with `train_tasks` and `groups_per_step` it says which task each lease is for.
        steps, groups_per_step, updates_per_step, group_size, min_valid, staleness, publish_every, checkpoint_every,
            evaluate_every: the keys of the configuration that decide what must be in the lines that follow.
        train_tasks, held_out_tasks: how many there are.
        anew_from: step that the run went back to and from which it draws other noise, see `learner.state.rollback`.
        refused_checkpoints: why newer ones were passed over, a sentence each.
    """

    step: Count
    locus_version: LocusVersion | None = None
    config_hash: Hex
    changed: list[str]
    allowed: list[str]
    data: dict[str, str]
    code: dict[str, str]
    seed: Annotated[int, Field(ge=0)]
    steps: Positive
    groups_per_step: Positive
    updates_per_step: Positive
    group_size: Positive
    min_valid: Positive
    staleness: Count
    publish_every: Positive
    checkpoint_every: Positive
    evaluate_every: Count
    train_tasks: Positive
    held_out_tasks: Count
    anew_from: Count | None
    refused_checkpoints: list[str]


class StepSkipped(Record):
    """No update of the step had a finite gradient."""

    step: Positive
    in_a_row: Positive


class StepReason(Record):
    """The run went back to that step, or that step's checkpoint was refused by the disk."""

    step: Count
    reason: str


class DataFaults(Record):
    """Lines of a manifest that were left out, grouped by reason; `command` names them one by one."""

    key: str
    count: Positive
    first: list[str]
    command: str


class DataRemarks(Record):
    """A notification about the data, see `editing.data.Tasks`."""

    sentences: list[str]


class Reason(Record):
    """A request to resize, or a file of the spool, was refused."""

    reason: str


class Told(Record):
    """An alarm for the operator after so many steps."""

    step: Count
    sentence: str


class Alarm(Told):
    """A notification, see `learner.reporting.alarms.Alarm`: `size` of what `metric` did, in the metric's own unit."""

    metric: str
    size: FiniteFloat


class StartMeasured(Record):
    """What a step at the start measured of its candidates, by group and measure; later ones are compared with it."""

    step: Positive
    groups: list[dict[str, list[FiniteFloat]]]


class Counters(Record):
    """See `learner.reporting.records.Counters`."""

    leased: Count
    trained: Count
    rejected: Count
    requeued: Count
    in_flight: Count
    replayed: Count


class Step(Record):
    """An optimizer step is done, published and saved where due. `gradient_norm` is null when it was not finite."""

    step: Positive
    reward_mean: FiniteFloat
    reward_std: Annotated[FiniteFloat, Field(ge=0)]
    gradient_norm: Annotated[FiniteFloat, Field(ge=0)] | None
    lr: Annotated[FiniteFloat, Field(ge=0)]
    counters: Counters


class Published(Record):
    """The weights after `version` steps went to the workers: their fingerprint, and how many modules they act on."""

    version: Count
    fingerprint: Hex
    modules: Positive


class Checkpoint(Record):
    """The whole training state after `step` steps is in `checkpoints/<path>`."""

    step: Count
    path: str


class Evaluated(Record):
    """The held-out tasks were measured, `tasks` of them; of `not_finite` others the editor makes no image.

    `fingerprint` is that of the running mean of the weights, where that was measured in place of what is published."""

    label: Literal["base", "training", "final"]
    step: Count
    tasks: Count
    not_finite: Count
    mean: dict[str, FiniteFloat]
    standard_error: dict[str, FiniteFloat]
    fingerprint: Hex | None = None


class OfStep(Record):
    """The run is at its end."""

    step: Count


class Failed(Record):
    """The process ends by an error."""

    error: str
    reason: str


RECORDS: dict[str, type[Record]] = {
    "started": Began,
    "resumed": Began,
    "leased": Leased,
    "generated": Generated,
    "scored": Scored,
    "spooled": Spooled,
    "replayed": Leased,
    "trained": Trained,
    "rejected": GroupReason,
    "requeued": GroupReason,
    "duplicate": OfGroup,
    "task_skipped": TaskSkipped,
    "step_skipped": StepSkipped,
    "rolled_back": StepReason,
    "data_faults": DataFaults,
    "data_remarks": DataRemarks,
    "worker_started": WorkerStarted,
    "worker_lost": WorkerLost,
    "worker_given_up": WorkerGivenUp,
    "worker_drained": WorkerDrained,
    "fleet_resized": FleetResized,
    "resize_refused": Reason,
    "weights_repushed": WeightsRepushed,
    "judges_awaited": JudgesAwaited,
    "judge_ready": JudgeReady,
    "judge_trouble": JudgeTrouble,
    "cache_trouble": CacheTrouble,
    "judge_server_started": JudgeServerStarted,
    "judge_server_lost": JudgeServerLost,
    "start_measured": StartMeasured,
    "alarm": Alarm,
    "step": Step,
    "published": Published,
    "checkpoint": Checkpoint,
    "evaluated": Evaluated,
    "spool_refused": Reason,
    "not_spooled": GroupReason,
    "not_saved": StepReason,
    "stopping": Told,
    "finished": OfStep,
    "failed": Failed,
}
"""What each event consists of, besides `seq`, `time`, `previous` and `event` (see `learner.state.event_log`)."""


def read_record(event: object, fields: Mapping[str, Any]) -> Record:
    """The record of an event.

    Raises:
        EventError: when there is no such event, or its fields are not as described.
    """
    kind = RECORDS.get(event) if isinstance(event, str) else None
    if kind is None:
        raise EventError(f"expected an event of learner.state.event_types.RECORDS, got {shown(event)}")
    return validated(kind, fields)
