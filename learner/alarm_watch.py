"""Follows a run's candidates and held-out measurements, and tells the alarms of `learner.alarms`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from learner.alarms import (
    CHANGE,
    DRIFTS,
    Alarm,
    Group,
    Reference,
    Rows,
    candidate_alarms,
    due,
    held_out_alarms,
    reference,
)
from learner.backend import Notify
from learner.observer import EvaluationRecord, GroupRecord, RunRecord, StepRecord
from learner.statistics import REWARD
from rewards.result import Score

STEPS, GROUPS = 5, 30
"""The start, and what is lately, are at least so many steps, and so many that they have this number of groups."""


class AlarmWatch:
    """An observer that tells an alarm once, and again when it has become markedly worse.

    Held-out measurements during training are told of when two in a row show the same; the final one counts alone.
    """

    def __init__(self, notify: Notify, before: Iterable[Mapping[str, Any]]) -> None:
        """
        Args:
            notify: writes the event and tells those who watch.
            before: the event log so far: a resumed run keeps its start, and what was told is not told again.
        """
        self._notify = notify
        events = list(before)
        starts = [event for event in events if event["event"] == "start_measured"]
        self._start = None if not starts else Reference(
            *(starts[0][name] for name in ("groups", "unchanged_below", "mean", "sd")))
        self._told = {told["metric"]: told["size"] for told in notifications(events)}

    def on_start(self, record: RunRecord) -> None:
        width = record.config.learner.groups_per_step
        self._steps = max(STEPS, -(-GROUPS // width))
        self._groups: deque[list[Group]] = deque(maxlen=self._steps)  # per step
        self._rewards: deque[float] = deque(maxlen=self._steps)
        self._first_rewards: list[float] = []
        self._now: list[Group] = []
        self._base: Rows = ()
        self._measured: list[Rows] = []

    def on_notice(self, sentence: str) -> None:
        """Nothing: most of them are its own."""

    def on_group(self, record: GroupRecord) -> None:
        scores = {**record.scores.components, **record.scores.diagnostics}
        self._now.append({name: found for name in (CHANGE, *DRIFTS) if (found := _values(scores.get(name, ())))})

    def on_step(self, record: StepRecord) -> None:
        self._groups.append(self._now)
        self._now = []
        if REWARD in record.reward_mean:
            self._rewards.append(record.reward_mean[REWARD])
            if len(self._first_rewards) < self._steps:
                self._first_rewards.append(record.reward_mean[REWARD])
        if len(self._groups) < self._steps:
            return
        groups = [group for step in self._groups for group in step]
        if self._start is None:
            self._start = reference(groups)
            self._notify("start_measured", step=record.step, **asdict(self._start))
            self._groups.clear()  # what follows is compared with it
        else:
            self._tell(candidate_alarms(self._start, groups, record.step))

    def on_evaluation(self, record: EvaluationRecord) -> None:
        if record.label == "base":
            self._base = record.rows
            return
        self._measured = [*self._measured, record.rows][-2:]
        final = record.label == "final"
        if not self._base or (len(self._measured) < 2 and not final):
            return
        rewards = (self._first_rewards, list(self._rewards))
        self._tell(held_out_alarms(self._base, self._measured[-1:] if final else self._measured, record.step, rewards))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Nothing: the summary has what was told."""

    def _tell(self, alarms: list[Alarm]) -> None:
        for alarm in due(alarms, self._told):
            self._told[alarm.metric] = alarm.size
            self._notify("alarm", **asdict(alarm))


def notifications(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a person was told of the steps in a run's weights; what a resume or a rollback undid is left out."""
    told: list[dict[str, Any]] = []
    for event in events:
        if event["event"] in ("resumed", "rolled_back"):
            told = [one for one in told if one["step"] <= event["step"]]
        elif event["event"] == "alarm":
            told.append({name: event[name] for name in ("metric", "step", "size", "sentence")})
    return told


def _values(scores: tuple[Score, ...]) -> list[float]:
    return [score.value for score in scores if score.value is not None]
