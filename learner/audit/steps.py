"""Optimizer steps, one after the other, each with all its groups and followed by all the lines that are due."""

from __future__ import annotations

from dataclasses import dataclass

from configs.text import shown
from editing.task import NOT_FINITE
from learner.audit.groups import place_of
from learner.audit.history import History, Rule, Saved
from learner.state.event_record import Record
from learner.state.event_types import (
    Began,
    Checkpoint,
    Evaluated,
    OfStep,
    Published,
    Step,
    StepReason,
    StepSkipped,
    Told,
)
from learner.state.group_events import GroupReason, TaskSkipped, Trained
from learner.state.rollback import MAX_SKIPPED_STEPS

BASE, TRAINING, FINAL = "the measurement of the base", "its measurement", "the measurement at the end"
PUBLISHED, SAVED, FIRST_SAVED, TOLD = (
    "its publication",
    "its checkpoint",
    "the checkpoint before the first step",
    "its own line",
)


@dataclass
class _Step:
    """An optimizer step: its number from 0, its groups by slot, and how many up to it were skipped in a row."""

    number: int
    groups: dict[int, str]
    skipped: int = 0


class Steps(Rule):
    """Follows the steps; `history.done` is counted here.

    `steps` are those in the surviving weights: a resume after s steps forgets what came after them. `_owed` names what
    must be told before the run can go on with anything else.
    """

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.steps: list[_Step] = []
        self._groups: dict[int, str] = {}  # of the step that is being told
        self._owed: list[str] = []
        self._due = self._saved = self._measured = False
        self._lost = ""  # why the last group was lost
        self._lacking = 0  # held-out tasks that went bad since the last measurement

    def begin(self, record: Began) -> None:
        history = self.history
        undone = len(self._groups)
        while self.steps and self.steps[-1].number >= record.step:
            undone += len(self.steps.pop().groups)
        history.counts["undone by a resume"] += undone
        history.done, history.closing, history.published = record.step, False, None
        self._groups, self._lacking = {}, 0
        self._due = self._saved = self._measured = False
        self._owed = [PUBLISHED, *[BASE] * (record.held_out_tasks > 0), *[FIRST_SAVED] * (history.last == "")]

    def _settled(self, *later: str) -> None:
        """What must be told by now; each that is missing is a fault. `later`: what may still come."""
        for what in [one for one in self._owed if one not in later]:
            self.history.fault("log", f"the run goes on, but {what} is missing (after {self.history.done} steps)")
            self._owed.remove(what)
        if TOLD not in self._owed:
            self.history.closing = False

    def on_leased(self, record: Record) -> None:
        self._settled()

    on_scored = on_rejected = on_duplicate = on_spooled = on_not_spooled = on_leased

    def on_requeued(self, record: GroupReason) -> None:
        self._settled()
        self._lost = record.reason

    def on_replayed(self, record: Record) -> None:
        self._settled(FIRST_SAVED)

    def on_stopping(self, record: Told) -> None:
        self._settled()

    def on_trained(self, record: Trained) -> None:
        history, name = self.history, record.group
        self._settled()
        step, slot, _ = place_of(name)
        history.counts["trained"] += 1
        if not step == record.step == history.done:
            history.fault(
                "P1", f"group {name} was trained on in step {record.step}, expected one of step {history.done}"
            )
        if slot in self._groups:
            history.fault("P1", f"slot {slot} of step {step} was trained on twice: {self._groups[slot]} and {name}")
        self._groups[slot] = name
        if len(self._groups) == history.process.groups_per_step:
            self._close_step()

    def _close_step(self) -> None:
        history, process = self.history, self.history.process
        self.steps.append(_Step(history.done, self._groups))
        self._groups, self._saved = {}, False
        history.done += 1
        history.furthest = max(history.furthest, history.done)
        history.closing = True
        self._owed.append(TOLD)
        if self._is_last or self._measures or history.done % process.publish_every == 0:
            self._owed.append(PUBLISHED)

    @property
    def _is_last(self) -> bool:
        return self.history.done == self.history.process.steps

    @property
    def _measures(self) -> bool:
        every = self.history.process.evaluate_every
        return not self._is_last and every > 0 and self.history.done % every == 0

    @property
    def _saves(self) -> bool:
        """Whether a checkpoint of the step that is closing is due: while steps are skipped, only of the last one."""
        due = self._due or self.history.done % self.history.process.checkpoint_every == 0
        return self._is_last or (due and not self.steps[-1].skipped)

    def on_step_skipped(self, record: StepSkipped) -> None:
        history = self.history
        if not history.closing or record.step != history.done:
            history.fault("P1", f"step {record.step} was skipped, expected step {history.done} with all its groups")
            return
        if self.steps[-1].skipped:
            history.fault("log", f"step {record.step} was skipped twice")
        before = self.steps[-2].skipped if len(self.steps) > 1 else 0
        if record.in_a_row != before + 1:
            history.fault(
                "log", f"step {record.step} is skipped number {record.in_a_row} in a row, expected {before + 1}"
            )
        self.steps[-1].skipped = before + 1

    def on_rolled_back(self, record: StepReason) -> None:
        skipped = self.steps[-1].skipped if self.steps else 0
        if skipped != MAX_SKIPPED_STEPS and NOT_FINITE not in self._lost:
            self.history.fault(
                "P7",
                f"the run went back after {skipped} skipped steps in a row, expected "
                f"{MAX_SKIPPED_STEPS}, or a group that was lost because its latents {NOT_FINITE}",
            )

    def on_published(self, record: Published) -> None:
        history, version = self.history, record.version
        if version != history.done:
            history.fault("P4", f"version {version} was published after {history.done} steps")
        if version == history.published:
            history.fault("P4", f"version {version} was published twice by this process")
        elif PUBLISHED not in self._owed:
            history.fault("log", f"version {version} was published, but it was not due")
        else:
            self._owed.remove(PUBLISHED)
        history.published = version

    def on_checkpoint(self, record: Checkpoint) -> None:
        history, step = self.history, record.step
        if step != history.done or self._groups or record.path != f"step_{step:06d}":
            history.fault("P7", f"the checkpoint {shown(record.path)} is of step {step}, expected step {history.done}")
            return
        if history.saved and history.saved[-1].step == step:
            history.fault("P7", f"the checkpoint of step {step} was made twice")
            return
        if step > 0 and not (history.closing and self._saves):
            history.must_follow = ("stopping", "failed", "resumed")  # made because the process ends
        history.saved.append(Saved(step, history.process))
        self._is_saved()
        self._due = False

    def on_not_saved(self, record: StepReason) -> None:
        if record.step != self.history.done:
            self.history.fault("P7", f"no checkpoint of step {record.step}, expected one of step {self.history.done}")
        self._is_saved()
        self._due = True

    def _is_saved(self) -> None:
        self._saved = True
        if FIRST_SAVED in self._owed:
            self._owed.remove(FIRST_SAVED)

    def on_step(self, record: Step) -> None:
        history = self.history
        if self._groups:
            history.fault(
                "P1",
                f"step {record.step} ended with {len(self._groups)} groups instead of "
                f"{history.process.groups_per_step}",
            )
            self._close_step()
        if not history.closing or record.step != history.done:
            history.fault(
                "P1",
                f"step {record.step} ended, but {history.done} steps were trained"
                + " and told" * (not history.closing),
            )
            return
        skipped = bool(self.steps[-1].skipped)
        if self._saves and not self._saved:
            self._owed.append(SAVED)
        elif skipped:
            self._due |= history.done % history.process.checkpoint_every == 0
        # Of several updates, one may be skipped.
        if (record.gradient_norm is None) != skipped and (skipped or history.process.updates_per_step == 1):
            history.fault(
                "log",
                f"step {record.step} was {'' if skipped else 'not '}skipped, but its gradient norm "
                f"is {record.gradient_norm}",
            )
        self._owed.remove(TOLD)
        self._settled()
        if self._measures and history.process.held_out_tasks:
            self._owed.append(TRAINING)

    def on_evaluated(self, record: Evaluated) -> None:
        history, process = self.history, self.history.process
        what = {"base": BASE, "training": TRAINING, "final": FINAL}[record.label]
        self._settled(what, *[FIRST_SAVED] * (what == BASE))
        at_the_end = what == FINAL and self._is_last and not self._measured
        if record.step != history.done or not (what in self._owed or at_the_end):
            history.fault("log", f"{what} was made after {record.step} steps, but it was not due")
        self._measured |= at_the_end
        if what in self._owed:
            self._owed.remove(what)
        if history.published != history.done:
            history.fault("P4", f"version {history.published} was measured after {history.done} steps")
        if record.tasks + record.not_finite + self._lacking != process.held_out_tasks:
            history.fault(
                "log",
                f"{record.tasks} held-out tasks were measured, {record.not_finite} had no image and "
                f"{self._lacking} went bad, expected {process.held_out_tasks} in all",
            )
        self._lacking = 0

    def on_task_skipped(self, record: TaskSkipped) -> None:
        self._lacking += record.split is not None

    def on_finished(self, record: OfStep) -> None:
        history, process = self.history, self.history.process
        if process.held_out_tasks and not self._measured:
            self._owed.append(FINAL)
        if not record.step == history.done == process.steps or self._groups:
            history.fault(
                "P1", f"the run finished after {record.step} of {process.steps} steps, but {history.done} were trained"
            )
        elif not history.saved or history.saved[-1].step != history.done:
            history.fault("P7", "the run finished, but there is no line of its last checkpoint")
        self._settled()
