"""The learner's reports on groups and steps: plain numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from editing.trajectory import TrajectoryGroup
from learner.algorithms.loss_terms import GroupStats
from rewards.compose import GroupReward
from rewards.filters import FilterReason

Refusal = Literal["stale", "duplicate", "mismatch", "scores"]
"""Why a group is not trained on: older than `cluster.staleness` allows; its slot is trained or waiting already; it
does not belong to this run (configuration, task, shapes, versions); too few candidates are scored."""


PHASES = ("accumulate", "old_leaps", "add_up", "optimizer", "spool")


PAYLOAD = ("latent_bytes", "image_bytes")
"""What a group sends, see `editing.trajectory.TrajectoryGroup`."""


@dataclass(frozen=True)
class ConsumeReport:
    """What became of a group that was handed to the learner.

    Attributes:
        group_id: of the group.
        accepted: whether it counts for the next step.
        staleness: its age in policy versions when it was handed over.
        refusal, reason: why not, as a word and as a sentence; None when accepted.
        seconds: wall time, the gradient included where it was taken at once.
    """

    group_id: str
    accepted: bool
    staleness: int
    refusal: Refusal | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class StepReport:
    """One optimizer step.

    Attributes:
        version: policy version after it = steps done.
        applied: False when the gradient was not finite in any of its updates, so that those were skipped.
        skipped_in_a_row: steps that were skipped like that up to this one.
        totals: what its groups did.
    """

    version: int
    applied: bool
    skipped_in_a_row: int
    totals: StepTotals

    @property
    def metrics(self) -> dict[str, float]:
        """Finite numbers: `loss`; per term that took part (`surrogate`, `kl`, `background`, `velocity_anchor`,
        `undone_edit`) its mean over groups and `<term>_gradient`, the norm of its weighted gradient at the velocities;
        where both took part, `background_to_surrogate`, the proportion of those norms; the `preservation_unit`, 0 while
        it is not known, so that the preservation terms are off; with a background target the `background_weight` that
        was in force, the `background_measured` of the step's candidates and the `background_violation`, both in dB;
        `ratio_deviation` (largest |rho - 1| of the present weights against the rollout's: 0 on-policy before the first
        update by construction), `clipped_fraction`, `leap_error` (largest distance of a behaviour prediction to
        its stored state, relative to the displacement; Euler rollouts) and the largest `leap_tolerance` that
        one was held against, `gradient_norm` (before clipping), `lr`, `groups`, `zero_variance_groups` (zero
        advantages), `filtered_groups` (those of them that do vary; by reason, `rewards.filters`, as `filtered_edit`,
        `filtered_std`, `filtered_range` and `filtered_mean`), `full_mask_groups` (nothing to preserve),
        `invalid_candidates`, `stale_groups`, `group_latent_bytes` and `group_image_bytes` (of a group as it is sent,
        the mean), `skipped_updates` (of the whole run)."""
        return self.totals.metrics()


def together(reports: Sequence[StepReport]) -> StepReport:
    """The report of a step that several learner processes made, each with its share of the groups.

    Raises:
        ValueError: when they are not of the same step.
    """
    first = reports[0]
    if {(one.version, one.applied) for one in reports} != {(first.version, first.applied)}:
        raise ValueError(
            "the learner processes made different steps (version, applied): "
            f"{[(one.version, one.applied) for one in reports]}"
        )
    return replace(first, totals=_together([one.totals for one in reports]))


@dataclass
class StepTotals:
    """What the groups of a step did, gathered one by one.

    Attributes:
        stats: per group that was trained on.
        counts: those of `StepReport.metrics`.
        seconds: wall time by phase since the step before: `accumulate` (forwards and backwards), `old_leaps`
            (behaviour leaps of stale groups), `add_up` (gradients of the learner processes), `optimizer`, `spool`.
        spooled: seconds that it took to put a group on disk before it was used, by group id; those that were there
            already, taken again after a resume, are left out.
        unspooled: why a group was used without being on disk, by group id.
        leap_errors: per group.
        leap_tolerance: the largest that they were held against: groups of version 0 have another, see
            `learner.update.policy_gate`.
        gradient_norms: per update.
        lr: learning rate.
        skipped_updates: of the whole run.
        unit: of the preservation weights, see `learner.algorithms.preservation_unit`; None where there is none.
        constraint: what `learner.update.background_constraint` says of the step; empty without a target.
    """

    stats: list[GroupStats] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    spooled: dict[str, float] = field(default_factory=dict)
    unspooled: dict[str, str] = field(default_factory=dict)
    leap_errors: list[float] = field(default_factory=list)
    leap_tolerance: float = 0.0
    gradient_norms: list[float] = field(default_factory=list)
    lr: float = 0.0
    skipped_updates: int = 0
    unit: float | None = None
    constraint: dict[str, float] = field(default_factory=dict)

    def count(
        self, group: TrajectoryGroup, reward: GroupReward, zero_variance: bool, full_mask: bool, staleness: int
    ) -> None:
        """Counts a group at its first use."""
        self.counts.update(
            groups=1,
            zero_variance_groups=int(zero_variance),
            filtered_groups=int(reward.filtered),
            full_mask_groups=int(full_mask),
            invalid_candidates=int((~reward.valid).sum()),
            stale_groups=int(staleness > 0),
            latent_bytes=group.latent_bytes,
            image_bytes=group.image_bytes,
        )
        if reward.filter is not None:
            self.counts[f"filtered_{reward.filter}"] += 1

    def metrics(self) -> dict[str, float]:
        """See `StepReport.metrics`; what is not finite is left out."""
        found = {
            "loss": _mean([s.loss for s in self.stats]),
            "ratio_deviation": max([s.ratio_deviation for s in self.stats], default=0.0),
            "gradient_norm": _mean(self.gradient_norms),
            "lr": self.lr,
            **{
                name: float(self.counts[name])
                for name in (
                    "groups",
                    "zero_variance_groups",
                    "filtered_groups",
                    *(f"filtered_{reason}" for reason in get_args(FilterReason)),
                    "full_mask_groups",
                    "invalid_candidates",
                    "stale_groups",
                )
            },
            "skipped_updates": float(self.skipped_updates),
            **{f"group_{what}": self.counts[what] / max(self.counts["groups"], 1) for what in PAYLOAD},
        }
        if self.leap_errors:
            found["leap_error"] = max(self.leap_errors)
            found["leap_tolerance"] = self.leap_tolerance
        for name in sorted({name for s in self.stats for name in s.terms}):
            terms = [s.terms[name] for s in self.stats if name in s.terms]
            found[name] = _mean([term.value for term in terms])
            found[f"{name}_gradient"] = _mean([term.gradient for term in terms])
        if self.unit is not None:
            found["preservation_unit"] = self.unit
        found.update(self.constraint)
        if {"surrogate", "background"} <= found.keys():
            found["background_to_surrogate"] = _ratio(found["background_gradient"], found["surrogate_gradient"])
        clipped = [s.clipped_fraction for s in self.stats if "surrogate" in s.terms]
        if clipped:
            found["clipped_fraction"] = _mean(clipped)
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _together(shares: Sequence[StepTotals]) -> StepTotals:
    """Everything that the shares hold; what all processes do alike is the first's, and phases take as long as the
    slowest."""
    first = shares[0]
    return StepTotals(
        stats=[stats for share in shares for stats in share.stats],
        counts=sum((share.counts for share in shares), Counter()),
        seconds={phase: max(share.seconds[phase] for share in shares) for phase in first.seconds},
        spooled={name: spent for share in shares for name, spent in share.spooled.items()},
        unspooled={name: why for share in shares for name, why in share.unspooled.items()},
        leap_errors=[error for share in shares for error in share.leap_errors],
        leap_tolerance=max(share.leap_tolerance for share in shares),
        gradient_norms=first.gradient_norms,
        lr=first.lr,
        skipped_updates=first.skipped_updates,
        unit=first.unit,
        constraint=first.constraint,
    )


def _ratio(value: float, to: float) -> float:
    return value / to if to else math.inf


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
