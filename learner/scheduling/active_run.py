"""A run in progress: what every part of the main loop needs, in one object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from configs.schema import RunConfig
from learner.backends.base import Backend
from learner.reporting.records import Counters
from learner.reporting.reporter import Reporter
from learner.reporting.timer import Phases
from learner.shutdown import Stopping
from learner.state.spool import Spooled


@dataclass(frozen=True)
class Resumed:
    """What a run goes on with besides the learner's weights.

    Attributes:
        spooled: groups to take again.
        counters: lease counters of the checkpoint; None: there is no checkpoint yet.
        anew_from: the step that the run was rolled back to, if it was.
    """

    spooled: tuple[Spooled, ...] = ()
    counters: Mapping[str, int] | None = None
    anew_from: int | None = None


FRESH = Resumed()
"""Of a run that begins."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        done: optimizer steps that are done.
        saved: steps in the newest checkpoint; None: there is none.
        due: whether a checkpoint is due.
        counters: lease counters after the steps that are done.
        not_saved, not_spooled: times in a row that the disk refused a checkpoint, or a step's groups.
        total: seconds by phase.
        sent: `groups` trained on by this process, and the sums of their bytes (`learner.update.step_report.PAYLOAD`).
    """

    done: int
    saved: int | None
    due: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    not_saved: int = 0
    not_spooled: int = 0
    total: Phases = field(default_factory=Phases)
    sent: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class TrainingResult:
    """The result of the main loop; `spoiled` says why training tasks were left out, by index, and `group_bytes` what a
    group sent on average; empty where none was trained on."""

    counters: Counters
    seconds: dict[str, float]
    spoiled: Mapping[int, str]
    group_bytes: Mapping[str, float] = field(default_factory=dict)


@dataclass
class ActiveRun:
    """A run between its start and its end.

    `train_tasks` and `held_out_tasks` are numbers of tasks; `progress` is the only part that changes.
    """

    config: RunConfig
    backend: Backend
    reporter: Reporter
    train_tasks: int
    held_out_tasks: int
    progress: Progress
    stopping: Stopping = field(default_factory=Stopping)
