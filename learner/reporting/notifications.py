"""Notifications for the operator: sentences for events that need attention at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from learner.algorithms.preservation_unit import LEAST_SHARE

JUDGE_FAILURES = ("unanswered", "refused", "bad")
"""What a judge's counters call requests without a usable score."""
ZERO_VARIANCE_SHARE, ZERO_VARIANCE_STEPS = 0.9, 5
"""Share of zero-variance groups, and the steps in a row above it, that raise an alarm."""


def notice(event: str, fields: Mapping[str, Any]) -> str | None:
    """The notification of an event, or None for one that only the event log needs."""
    if event == "judges_awaited":
        return f"waiting for judges: {', '.join(fields['judges'])} (at most {fields['seconds']:.0f} s)"
    if event == "judge_server_started":
        return f"judge {fields['judge']}: server {fields['replica']} is up ({fields['seconds']:.0f} s)"
    if event == "judge_server_lost":
        return (
            f"judge {fields['judge']}: server {fields['replica']} is lost: {fields['reason']}; it is started again "
            f"in {fields['again_in']:.0f} s"
        )
    if event == "judge_ready":
        return f"judge {fields['judge']}: {_servers(fields['servers'])} responded to a test image"
    if event == "judge_trouble":
        counts = ", ".join(f"{fields[name]} {name}" for name in JUDGE_FAILURES if fields.get(name))
        return f"judge {fields['judge']}: {_servers(fields['servers'])} in rotation" + (counts and f"; new: {counts}")
    if event == "cache_trouble":
        return (
            "the cache of judge scores does not respond; scoring goes on without it"
            if fields["faults"]
            else "the cache of judge scores responds again"
        )
    if event == "fleet_resized":
        return f"rollout workers: {fields['before']} -> {fields['after']}"
    if event == "resize_refused":
        return f"the number of rollout workers stays: {fields['reason']}"
    if event == "worker_given_up":
        return (
            f"a rollout worker was lost {fields['losses']} times in a row and is given up, {fields['left']} are "
            f"left; the last time: {fields['reason']}"
        )
    if event == "weights_repushed":
        return f"a rollout worker did not take over version {fields['version']} and gets it again: {fields['reason']}"
    if event == "spool_refused":
        return f"{fields['reason']} The group is rolled out again."
    if event == "not_spooled":
        return f"group {fields['group']} could not be written to the spool before it was used: {fields['reason']}"
    if event == "data_faults":
        plural = "s" * (fields["count"] != 1)
        return "\n  ".join(
            [
                f"{fields['key']}: {fields['count']} faulty line{plural} left out:",
                *fields["first"],
                *([f"all of them, with a reason each: {fields['command']}"] if fields["count"] > 1 else []),
            ]
        )
    if event == "data_remarks":
        return "\n".join(fields["sentences"])
    if event == "task_skipped":
        return f"{fields.get('split', 'training')} task {fields['task']} went bad and is left out: {fields['reason']}"
    if event == "step_skipped":
        return (
            f"step {fields['step']} is skipped: its gradient was not finite ({fields['in_a_row']} in a row); the "
            "group that caused it is kept in faulty/"
        )
    if event == "not_saved":
        return (
            f"the checkpoint of step {fields['step']} could not be written: {fields['reason']}; earlier ones are "
            "kept, and it is tried again after the next step"
        )
    if event == "failed":
        return str(fields["reason"])
    return str(fields["sentence"]) if event in ("alarm", "stopping") else None


def _servers(count: float) -> str:
    return f"{count:.0f} server" + "s" * (count != 1)


class ZeroVarianceAlarm:
    """An alarm, raised once when nearly all groups teach nothing for some steps, and again only after a recovery."""

    def __init__(self, edit: Sequence[str]) -> None:
        """For a run in which these components reward the edit."""
        self._edit = " and ".join(edit)
        self._shares: deque[tuple[float, float]] = deque(maxlen=ZERO_VARIANCE_STEPS)
        self._told = False

    def sentence(self, share: float, edit_share: float) -> str | None:
        """The alarm, if this step's share of zero-variance groups (0..1) makes it due; `edit_share` is that of the
        groups in which no reward for the edit is above its floor, all of which are zero-variance."""
        self._shares.append((share, edit_share))
        zero_variance, edit_zero_variance = (
            len(self._shares) == ZERO_VARIANCE_STEPS and min(shares) > ZERO_VARIANCE_SHARE
            for shares in zip(*self._shares, strict=True)
        )
        due, self._told = zero_variance and not self._told, zero_variance
        if not due:
            return None
        begin = (
            f"more than {ZERO_VARIANCE_SHARE:.0%} of the groups taught nothing in {ZERO_VARIANCE_STEPS} steps "
            "in a row: "
        )
        if edit_zero_variance:
            return (
                f"{begin}between their candidates, no reward for the edit ({self._edit}) varied by more than its "
                "floor. They are left out, because other rewards alone teach an editor to change nothing. Look at "
                f"the scores of {self._edit} (a judge that always says the same?) and at rewards.floors, or raise "
                "algorithm.alpha_edit."
            )
        return (
            f"{begin}their candidates all got about the same reward, or the filters left them out. Look at the scores "
            "(a judge that always says the same?), lower rewards.min_std or rewards.min_range, raise rewards.max_mean, "
            "or raise algorithm.alpha_edit."
        )


def waiting(done: int, steps: int, unit: float | None) -> str | None:
    """The one notification, after `ZERO_VARIANCE_STEPS` steps or at the end of a shorter run, of preservation terms
    that are still off; `unit` is that of the step, see `learner.algorithms.preservation_unit`."""
    if unit != 0 or done != min(ZERO_VARIANCE_STEPS, steps):
        return None
    return (
        f"the preservation terms have been off for {done} steps: their weights count in units of the surrogate's "
        "gradient, which is not known before a group has candidates of different reward, tokens outside its edit "
        f"mask, and there a background whose gradient is more than {LEAST_SHARE:g} of the surrogate's. Until then "
        "nothing holds the rest of the image, or the edit. Look at the scores, lower "
        "algorithm.preservation.background_tolerance where it is above 0, or train on preservation alone, as preset "
        "keep_the_rest does, with --algorithm.weight 0 and no reward for the edit."
    )
