"""Published versions: one set of weights each, another one than before unless no step moved them."""

from __future__ import annotations

from learner.audit.history import History, Rule
from learner.state.event_types import Began, Published, Step, StepSkipped

STILL = 1e-12
"""A gradient of this norm may leave every weight as it is."""


class Weights(Rule):
    """Fingerprints and numbers of modules."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._versions: list[tuple[int, str]] = []  # rising, with their fingerprints
        self._moved: list[int] = []  # steps (from 1) that moved the weights, rising
        self._same: tuple[int, int, int] | None = None  # line, version, and the one that had the same fingerprint
        self._newest: dict[str, int] = {}  # version by fingerprint
        self._skipped = 0  # in a row since a version was published
        self._modules: int | None = None

    def begin(self, record: Began) -> None:
        # Version s must come back with the weights it had; later ones are made anew.
        while self._versions and self._versions[-1][0] > record.step:
            _, fingerprint = self._versions.pop()
            self._newest.pop(fingerprint, None)
        while self._moved and self._moved[-1] > record.step:
            self._moved.pop()
        self._same, self._skipped = None, 0
        if any(key.startswith("editor.") for key in record.changed):
            self._modules = None

    def on_published(self, record: Published) -> None:
        history, version = self.history, record.version
        if self._modules is not None and record.modules != self._modules:
            history.fault(
                "P4", f"version {version} acts on {record.modules} modules, the one before it on {self._modules}"
            )
        self._modules = record.modules
        before, held = self._versions[-1] if self._versions else (None, "")
        if before == version:
            if held != record.fingerprint:
                history.fault(
                    "P4",
                    f"version {version} was published with other weights before: "
                    f"{held[:12]}, now {record.fingerprint[:12]}",
                )
        elif before is not None and self._skipped == version - before and held != record.fingerprint:
            history.fault(
                "P4", f"all steps since version {before} were skipped, but version {version} has other weights"
            )
        elif record.fingerprint in self._newest:
            self._same = (history.line, version, self._newest[record.fingerprint])
        if before is None or version > before:
            self._versions.append((version, record.fingerprint))
        self._newest[record.fingerprint] = version
        self._skipped = 0

    def on_step_skipped(self, record: StepSkipped) -> None:
        self._skipped += 1

    def on_step(self, record: Step) -> None:
        if record.gradient_norm is not None and record.gradient_norm > STILL and record.lr > 0:
            self._moved.append(record.step)
        if self._same is not None:
            line, version, other = self._same
            moved = next((step for step in reversed(self._moved) if step <= version), 0)
            if moved > other:
                self.history.fault(
                    "P4",
                    f"version {version} has the same weights as version {other}, although step {moved} moved them",
                    line,
                )
            self._same = None
