"""Records of groups and steps for the observers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from learner.backends.base import Delivered
from learner.reporting.records import GroupRecord, StepRecord
from learner.reporting.reward_stats import reward_statistics
from learner.scheduling.active_run import ActiveRun
from learner.scheduling.collector import Collector
from learner.scheduling.ledger import staleness
from learner.update.step_report import StepReport


def step_record(
    run: ActiveRun,
    collector: Collector,
    groups: Sequence[Delivered],
    report: StepReport,
    seconds: Mapping[str, float],
    judge: Mapping[str, float],
) -> StepRecord:
    """The record of the step that is done; raises LedgerError when the lease counters do not balance."""
    done = run.progress.done
    by_region = run.config.algorithm.by_region is not None
    rewards = reward_statistics([delivered.scores for delivered in groups], run.config.rewards, by_region)
    ages = Counter(staleness(done - 1, delivered.generated.policy_version) for delivered in groups)
    return StepRecord(
        step=done,
        steps=run.config.learner.steps,
        version=collector.version,
        reward_mean=rewards.mean,
        reward_std=rewards.std,
        zero_std_share=rewards.zero_std_share,
        edit_zero_variance_share=rewards.edit_zero_variance_share,
        staleness=dict(sorted(ages.items())),
        groups_per_minute=60 * len(groups) / seconds["step"],
        counters=collector.ledger.balance(),
        seconds=dict(seconds),
        learner={**report.metrics, **{f"{phase}_seconds": spent for phase, spent in report.totals.seconds.items()}},
        judge=judge,
        invalid=collector.invalid(),
        silent=rewards.silent,
        floored=rewards.floored,
    )


def group_record(run: ActiveRun, step: int, delivered: Delivered) -> GroupRecord:
    """The record of a group that was taken for `step` (0-based), with its images if the gallery wants them."""
    config, generated = run.config, delivered.generated
    wanted = delivered.lease.slot == 0 and step in gallery_steps(config.learner.steps, config.report.gallery_groups)
    return GroupRecord(
        step,
        generated.lease,
        generated.task_id,
        delivered.scores,
        staleness(step, generated.policy_version),
        generated.seconds,
        images=run.backend.images(delivered) if wanted else None,
    )


def gallery_steps(steps: int, count: int) -> frozenset[int]:
    """`count` steps spread over the run, the first and the last among them: their first group is shown."""
    if count == 0:
        return frozenset()
    if count == 1:
        return frozenset({steps - 1})
    return frozenset(round(place * (steps - 1) / (count - 1)) for place in range(count))
