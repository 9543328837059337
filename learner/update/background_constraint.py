"""The background as a constraint: the step's candidates are measured, and the background term's weight follows.

With `algorithm.preservation.background_target` the weight of the background term is a dual weight
(`learner.algorithms.dual_weight`): it begins at `background_weight`, and after every step it rises if the mean
background PSNR of the step's valid candidates was below the target, and falls otherwise. What is measured comes with
the scores of every group, whatever the reward is, and is in the spool with them. All data-parallel peers are given the
scores of all groups, so that they hold the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from configs.method_families import MethodConfig
from learner.algorithms.dual_weight import DualWeight, updated_dual_weight
from rewards.result import GroupScores

MEASURE = "background_psnr"
"""In dB, outside the mask; a group without background has none."""


class BackgroundConstraint:
    """The dual weight of a run, or, without a target, the fixed weight."""

    def __init__(self, config: MethodConfig) -> None:
        self._config, self._target = config, config.preservation.background_target
        self._dual: DualWeight | None = None
        if self._target is not None:
            self._dual = DualWeight(config.preservation.background_weight)
        self._measured: list[float] = []

    @property
    def config(self) -> MethodConfig:
        """The method's settings with the background term's weight of the present step."""
        if self._dual is None:
            return self._config
        preservation = self._config.preservation.model_copy(update={"background_weight": self._dual.weight})
        return self._config.model_copy(update={"preservation": preservation})

    def measure(self, scores: GroupScores) -> None:
        """Counts the valid candidates of a group of the coming step.

        Raises:
            ValueError: when the group comes without a measurement.
        """
        if self._dual is None:
            return
        row = scores.components.get(MEASURE) or scores.diagnostics.get(MEASURE)
        if row is None:
            raise ValueError(
                f"group {scores.group_id} has no {MEASURE}, which algorithm.preservation.background_target is held "
                f"against; got {sorted({*scores.components, *scores.diagnostics})}"
            )
        self._measured += [one.value for one, ok in zip(row, scores.valid, strict=True) if ok and one.value is not None]

    def finish_step(self, applied: bool) -> dict[str, float]:
        """Moves the weight, and says what it was in this step and what was measured.

        A step that was not `applied` leaves it as the weights are left, and so does one without a measurement: its
        groups have no background.
        """
        measured, self._measured = self._measured, []
        if self._dual is None or self._target is None:
            return {}
        found = {"background_weight": self._dual.weight}
        if measured:
            mean = math.fsum(measured) / len(measured)
            found |= {"background_measured": mean, "background_violation": self._target - mean}
            if applied:
                rate = self._config.preservation.background_rate
                self._dual = updated_dual_weight(self._dual, mean, self._target, rate)
        return found

    @property
    def state(self) -> dict[str, float] | None:
        """For a checkpoint, JSON; None without a target."""
        return None if self._dual is None else asdict(self._dual)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Takes over what `state` gave."""
        self._dual = None if state is None else DualWeight(**state)
        self._measured = []
