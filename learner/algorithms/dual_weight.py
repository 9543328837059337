"""A constraint on the background: the weight of the term that holds it, moved by what the run measures."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DualWeight:
    """The state of a constraint on the background: numbers, as they go into a checkpoint.

    Attributes:
        weight: lambda, the factor of the background term in the loss; > 0.
        violation: (target - measured) / scale at the last update, cut to [-1, 1]; above 0 = violated.
    """

    weight: float
    violation: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf and -1 <= self.violation <= 1):  # NaN fails too
            raise ValueError(
                f"expected a weight above 0 and a violation in [-1, 1], got {self.weight} and {self.violation}."
            )


def updated_dual_weight(
    state: DualWeight,
    measured: float,
    target: float,
    rate: float,
    scale: float = 1.0,
    low: float = 1e-2,
    high: float = 1e2,
) -> DualWeight:
    """The state after a measurement: weight * exp(rate * (target - measured) / scale), cut to [low, high].

    Dual ascent on the logarithm of the weight, so that the reward is maximised subject to measured >= target; the idea
    of a multiplier that is learnt is CFO's, the form ours. Chosen over projected ascent, max(0, weight + rate *
    violation), because Adam takes the common scale out of a step: a weight means something as a proportion only, so its
    steps should be proportions too, and need no knowledge of its size. It is never 0 either, from where an additive
    weight must climb while the background is being lost; `low` is the price. Cut at each step, it does not wind up.

    The violation is cut to [-1, 1], so one measurement changes the weight by no more than e^rate: a batch of nearly
    untouched images (PSNR up to infinity) is not a reason to let go.

        weight 1, measured 28, target 30, rate .1, scale 4  ->  weight e^.05 = 1.0513, violation .5

    Args:
        state: of the last update.
        measured: mean background PSNR, dB; infinity for images that are equal there.
        target: the PSNR to be held, dB, finite.
        rate: eta > 0, the largest change of log weight per update.
        scale: dB of violation at which the change is largest; > 0.
        low, high: bounds of the weight, 0 < low <= high.

    Raises:
        ValueError: for a value out of range, or a measurement that is NaN.
    """
    if not (0 < rate < math.inf and 0 < scale < math.inf and 0 < low <= high < math.inf and math.isfinite(target)):
        raise ValueError(
            "expected a finite target, rate and scale above 0 and 0 < low <= high, got "
            f"target={target}, rate={rate}, scale={scale}, low={low}, high={high}."
        )
    if math.isnan(measured):
        raise ValueError("measured: expected the background's PSNR in dB, got NaN. Leave the weight as it is instead.")
    violation = min(max((target - measured) / scale, -1.0), 1.0)
    return DualWeight(min(max(state.weight * math.exp(rate * violation), low), high), violation)
