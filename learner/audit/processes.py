"""The processes of a run: each begins once, goes on from what was saved as the run was configured, and ends once."""

from __future__ import annotations

from configs.text import shown
from learner.audit.history import History, Rule, Saved
from learner.state.event_types import Began, Failed, OfStep, StepReason, Told
from learner.state.training_state import CHANGEABLE, changed_keys, is_within

SETTINGS = {
    "seed": "seed",
    "steps": "learner.steps",
    "groups_per_step": "learner.groups_per_step",
    "updates_per_step": "learner.updates_per_step",
    "group_size": "sampler.group_size",
    "min_valid": "rewards.min_valid",
    "staleness": "cluster.staleness",
    "publish_every": "cluster.publish_every",
    "checkpoint_every": "checkpoint.every",
    "evaluate_every": "report.evaluate_every",
}
"""Fields of `Began` and the keys of the configuration that they are."""


class Processes(Rule):
    """Beginnings and ends."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._error = ""  # that the process before ended by
        self._went_back: set[int] = set()

    def on_started(self, record: Began) -> None:
        history = self.history
        if history.last:
            history.fault("log", "expected the run to start once, got a second start")
        if record.step or record.changed or record.refused_checkpoints or record.anew_from is not None:
            history.fault(
                "P7",
                "expected a run that starts to start from nothing at step 0, got a change, a refused "
                f"checkpoint, or step {record.step}",
            )

    def on_resumed(self, record: Began) -> None:
        history, before = self.history, self.history.began
        history.counts["resumes"] += 1
        if before is None:
            history.fault("log", "expected the event log to begin with the start of the run, got a resume")
            return
        self._goes_on_from_the_newest(record, before)
        history.forget_after(record.step)
        if record.step and (not history.saved or history.saved[-1].step != record.step):
            history.saved.append(Saved(record.step, before))  # a crash came between the checkpoint and its line
        self._is_the_same_run(record, before)
        if record.anew_from is not None and record.anew_from not in self._went_back:
            history.fault(
                "P7", f"it draws other noise from step {record.anew_from} on, but the run never went back to there"
            )

    def _goes_on_from_the_newest(self, record: Began, before: Began) -> None:
        history, step = self.history, record.step
        newest = history.saved[-1].step if history.saved else 0
        if step > history.done:
            history.fault("P1", f"it goes on after {step} steps, but only {history.done} were trained")
        elif newest < step < history.done:
            history.fault("P7", f"it goes on from a checkpoint of step {step}, but there is no line of one")
        elif step < newest and not record.refused_checkpoints:
            history.fault(
                "P7", f"it goes on from step {step} and does not say why it refuses the checkpoint of step {newest}"
            )

    def _is_the_same_run(self, record: Began, before: Began) -> None:
        history, allowed = self.history, (*CHANGEABLE, *record.allowed)
        # Other code may know keys that the configuration did not have.
        if record.config_hash != before.config_hash and record.code == before.code and not record.changed:
            history.fault(
                "P7",
                f"its configuration is {record.config_hash[:12]}, that of the process before "
                f"{before.config_hash[:12]}, and it does not say in which keys they differ",
            )
        for name, key in SETTINGS.items():
            old, new = getattr(before, name), getattr(record, name)
            if old != new and key not in record.changed:
                history.fault("P7", f"{key} was {old} and is {new}, but it is not among the keys that changed")
        for key in record.changed:
            if not is_within(key, allowed):
                history.fault("P7", f"{shown(key)} may not differ in a resumed run unless --allow-changed names it")
        # What the checkpoint holds; before there is one, a run may go on with anything.
        if history.saved and history.saved[-1].step == record.step:
            made = history.saved[-1].by
            for key, (old, new) in changed_keys(_things(made), _things(record), record.allowed).items():
                history.fault(
                    "P7",
                    f"{shown(key)} was {shown(old)} and is {shown(new)}, and --allow-changed names "
                    "neither it nor what it belongs to",
                )

    def begin(self, record: Began) -> None:
        self._error = ""

    def on_stopping(self, record: Told) -> None:
        if record.step != self.history.done:
            self.history.fault("log", f"it stops after {record.step} steps, but {self.history.done} were trained")
        self.history.must_follow = ("failed", "resumed")

    def on_failed(self, record: Failed) -> None:
        self._error = record.error
        self.history.must_follow = ("resumed", "rolled_back")

    def on_finished(self, record: OfStep) -> None:
        self.history.must_follow = ("resumed",)

    def on_rolled_back(self, record: StepReason) -> None:
        history = self.history
        if self._error != "Diverged":
            history.fault("P7", f"the run went back to step {record.step}, but no process ended because it diverged")
        history.forget_after(record.step)
        if not history.saved or history.saved[-1].step != record.step:
            history.fault("P7", f"the run went back to step {record.step}, but there is no line of a checkpoint of it")
        self._went_back.add(record.step)
        history.must_follow = ("resumed",)


def _things(record: Began) -> dict[str, object]:
    return {"data": {"fingerprint": record.data}, "code": record.code}
