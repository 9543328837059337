"""The monitor of a run's candidates and held-out measurements: raises the alarms of `learner.reporting.alarms`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from learner.reporting.alarms import (
    CHANGE,
    DRIFTS,
    Alarm,
    Group,
    Rows,
    candidate_alarms,
    due,
    held_out_alarms,
    reference,
)
from learner.reporting.records import EvaluationRecord, GroupRecord, Notify, RunRecord, StepRecord
from learner.reporting.reward_stats import REWARD
from rewards.result import Score

STEPS, GROUPS = 5, 30
"""The start is a run's first steps, lately its last ones: so many, and so many that they have this number of groups."""


class AlarmMonitor:
    """An observer that raises an alarm once, and again when it has become markedly worse.

    Held-out measurements during training raise one when two in a row show the same; the final one counts alone.
    """

    def __init__(self, notify: Notify, before: Iterable[Mapping[str, Any]]) -> None:
        """
        Args:
            notify: writes the event and notifies the observers.
            before: the event log so far: a resumed run keeps its start, and what was told is not told again.
        """
        self._notify = notify
        events = list(before)
        self._start: dict[int, list[Group]] = {
            event["step"]: event["groups"] for event in standing(events, "start_measured")
        }
        self._rewards: dict[int, float] = {event["step"]: event["reward_mean"] for event in standing(events, "step")}
        self._told = {told["metric"]: told["size"] for told in notifications(events)}

    def on_start(self, record: RunRecord) -> None:
        width = record.config.learner.groups_per_step
        self._steps = max(STEPS, -(-GROUPS // width))
        self._recent: deque[list[Group]] = deque(maxlen=self._steps)
        self._now: list[Group] = []
        self._base: Rows = ()
        self._measured: list[Rows] = []

    def on_notice(self, sentence: str) -> None:
        """Nothing: most of them are its own."""

    def on_group(self, record: GroupRecord) -> None:
        scores = {**record.scores.components, **record.scores.diagnostics}
        self._now.append({name: found for name in (CHANGE, *DRIFTS) if (found := _values(scores.get(name, ())))})

    def on_step(self, record: StepRecord) -> None:
        groups, self._now = self._now, []
        self._rewards[record.step] = record.reward_mean[REWARD]
        if record.step <= self._steps:
            self._start[record.step] = groups
            self._notify("start_measured", step=record.step, groups=groups)
            return
        self._recent.append(groups)  # only what follows the start is compared with it
        if len(self._recent) == self._steps:
            self._tell(candidate_alarms(reference(_all(self._start.values())), _all(self._recent), record.step))

    def on_evaluation(self, record: EvaluationRecord) -> None:
        if record.label == "base":
            self._base = record.rows
            return
        self._measured = [*self._measured, record.rows][-2:]
        final = record.label == "final"
        if not self._base or (len(self._measured) < 2 and not final):
            return
        rewards = [reward for _, reward in sorted(self._rewards.items())]
        self._tell(
            held_out_alarms(
                self._base,
                self._measured[-1:] if final else self._measured,
                record.step,
                (rewards[: self._steps], rewards[-self._steps :]),
            )
        )

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Nothing: the summary has what was told."""

    def _tell(self, alarms: list[Alarm]) -> None:
        for alarm in due(alarms, self._told):
            self._told[alarm.metric] = alarm.size
            self._notify("alarm", **asdict(alarm))


def notifications(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The alarms raised during the steps in a run's weights."""
    return [{name: told[name] for name in ("metric", "step", "size", "sentence")} for told in standing(events, "alarm")]


def standing(events: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The events of a kind that tell of steps in a run's weights; what a resume or a rollback undid is left out."""
    found: list[Mapping[str, Any]] = []
    for event in events:
        if event["event"] in ("resumed", "rolled_back"):
            found = [one for one in found if one["step"] <= event["step"]]
        elif event["event"] == kind:
            found.append(event)
    return found


def _all(steps: Iterable[list[Group]]) -> list[Group]:
    return [group for groups in steps for group in groups]


def _values(scores: tuple[Score, ...]) -> list[float]:
    return [score.value for score in scores if score.value is not None]
