"""The learner: takes scored groups, makes optimizer steps, publishes and saves. A plain class; Ray only wraps it.

Policy version v is the adapter after v optimizer steps; version 0 is the fresh adapter. A step whose gradient was
not finite leaves the weights alone but counts, so that steps, versions and leases stay in line.

Nothing here is random: the forward has no dropout, and everything that is drawn is drawn from seeds in leases. So a
checkpoint needs no generator state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import config_hash
from configs.schema import RunConfig
from editing.data import Tasks
from editing.editors.base import Editor
from editing.editors.lora import (
    AdapterError,
    adapter_parameters,
    check_arrays,
    copy_arrays,
)
from editing.editors.policy import attach_adapter
from editing.trajectory import TrajectoryGroup
from editing.weights import WeightVersion
from learner.algorithms.base import GroupTensors
from learner.algorithms.preservation_unit import Balance, weighs
from learner.algorithms.registry import open_algorithm
from learner.algorithms.replay import replayed
from learner.state.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from learner.state.provenance import code_fingerprint
from learner.state.spool import Spool
from learner.state.training_state import optimizer_tensors, refusal_of_another_run, restore_optimizer
from learner.update.adapter_optimizer import AdapterOptimizer
from learner.update.admission import Admission
from learner.update.background_constraint import BackgroundConstraint
from learner.update.behaviour import Behaviour
from learner.update.credit import credited_scores
from learner.update.data_parallel import ALONE, Peers
from learner.update.given_gate import check_origin
from learner.update.group_loss import GroupLoss
from learner.update.held_group import Credit, HeldGroup, hold, loss_of, replay, tensors_of, velocities_at
from learner.update.lr_schedule import learning_rate
from learner.update.policy_gate import PolicyGate, PolicyGateError
from learner.update.step_report import ConsumeReport, StepReport, StepTotals
from rewards.result import GroupScores


class LearnerError(RuntimeError):
    """The learner cannot go on; the sentence says why."""


class Learner:
    """Owns the adapter's training. Feed groups with `consume`, then `update`, then `publish` and `save` as wanted."""

    def __init__(
        self, config: RunConfig, editor: Editor, tasks: Tasks, run_folder: str | Path, peers: Peers = ALONE
    ) -> None:
        """Takes an editor as `editing.editors.policy.open_policy` gives it; a fresh adapter is attached if it has none.

        Args:
            config: of the run.
            editor: not shared, or shared in turns with a user that restores the weights it found.
            tasks: of the run.
            run_folder: `checkpoints/` and `spool/` are made in it.
            peers: data-parallel peers. All are given every group, in the same order, and told to update; each
                trains on its share and puts that in the spool. One of them saves for all.
        """
        self.config, self.editor, self.tasks, self.peers = config, editor, tasks, peers
        self.checkpoints, self.spool = Path(run_folder) / "checkpoints", Spool(run_folder)
        if not adapter_parameters(editor.transformer):
            attach_adapter(editor, config.editor.lora, config.seed)
        self.parameters = adapter_parameters(editor.transformer)
        self.optimizer = AdapterOptimizer(self.parameters, config.learner.optimizer)
        self.version = 0
        self._method = open_algorithm(config.algorithm)
        self._admission = Admission(config, tasks.train)
        self._gate = PolicyGate(config)
        self._balance = Balance()
        self._constraint = BackgroundConstraint(config.algorithm)
        mean, ema = config.algorithm.rolls_out_mean, config.learner.optimizer.ema
        self.behaviour = Behaviour(editor.transformer, config.cluster.staleness, mean, ema)
        self._held: list[HeldGroup | None] = []  # None: a peer's
        self._scores: list[GroupScores] = []
        self._totals = StepTotals()
        self._skipped_updates = self._skipped_in_a_row = 0
        self._offender: str | None = None  # the group that made the present gradient infinite or NaN
        self._refused: str | None = None  # the group that the policy gate refused

    def consume(self, group: TrajectoryGroup, scores: GroupScores) -> ConsumeReport:
        """Takes a group for the coming step, or says why not. The gradient is taken at once where that is possible: not
        before the unit of the preservation weights is known, nor where rewards wait for the whole step.

        Gradients add up in the order of the calls, so that equal orders give equal bits. The group is in the spool
        before; where the disk refuses that, it is used all the same and the step's report says so.

        Raises:
            TaskError: when the group's task went bad; the group is not taken.
            PolicyGateError: when the group was not made by the policy that it names.
            LearnerError: when the step has all its groups already.
        """
        start = time.monotonic()
        staleness = self.version - group.policy_version
        refusal = self._admission.refuse(group, scores, self.version)
        if refusal is None:
            if self._admission.waiting >= self.config.learner.groups_per_step:
                raise LearnerError(
                    f"group {group.lease.group_id} comes too early: step {self.version} has its "
                    f"{self.config.learner.groups_per_step} groups (learner.groups_per_step); call update()"
                )
            held = self._hold(group, staleness) if self.peers.takes(self._admission.waiting) else None
            if held is not None:
                self._put_on_disk(group, scores)
            self._constraint.measure(scores)
            self._admission.take(group)
            if not self.config.group_by_group or self._balance.wanted(self.config.algorithm):
                self._held.append(held)
                self._scores.append(scores)
            elif held is not None:
                (credit,) = self._credited([scores])
                self._accumulate(held, credit, first=True)
        word, reason = refusal or (None, None)
        return ConsumeReport(group.lease.group_id, refusal is None, staleness, word, reason, time.monotonic() - start)

    def update(self) -> StepReport:
        """The optimizer step over the groups consumed since the last one.

        Raises:
            LearnerError: when groups are missing, or one was refused.
            PolicyGateError: as `consume`.
            PeersLost: when a data-parallel peer is gone.
        """
        config, totals = self.config.learner, self._totals
        if self._refused is not None:
            raise LearnerError(
                f"step {self.version} was given group {self._refused}, which the policy gate refused; "
                "continue from the last checkpoint"
            )
        if self._admission.waiting != config.groups_per_step:
            raise LearnerError(
                f"step {self.version} has {self._admission.waiting} of {config.groups_per_step} groups "
                "(learner.groups_per_step); consume the rest before update()"
            )
        totals.lr = learning_rate(self.version, config.steps, config.optimizer)
        credits = self._credited(self._scores)
        if self._held and self._balance.wanted(self.config.algorithm):
            self._weigh(credits)
        applied = False
        for update in range(config.updates_per_step):
            for held, credit in zip(self._held, credits, strict=True):
                if held is not None:
                    self._accumulate(held, credit, first=update == 0)
            with self._timed("add_up"):
                self.peers.add_up(self.parameters.values())
            with self._timed("optimizer"):
                applied |= self._apply(totals.lr)
        self._gate.noise = self.peers.largest(self._gate.noise)
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        self.version += 1
        self._admission.trained(self.version)
        self.behaviour.follow(self.version, applied)
        totals.constraint = self._constraint.finish_step(applied)
        totals.skipped_updates = self._skipped_updates
        totals.unit = self._balance.unit(self.config.algorithm) if weighs(self.config.algorithm) else None
        self._begin_step()
        return StepReport(self.version, applied, self._skipped_in_a_row, totals)

    def publish(self) -> WeightVersion:
        """The behaviour policy under the present version: not a copy, so send or copy it before the next update."""
        return self.behaviour.published(self.version)

    def measured(self) -> WeightVersion:
        """What is measured on held-out tasks and exported after the present version; a copy or not as `publish`."""
        return self.behaviour.measured(self.version)

    @property
    def state(self) -> dict[str, Any]:
        """The numbers of the training state, JSON values; tensors are in `save` only. Groups that are consumed but not
        in a step yet are no part of it: they are in the spool."""
        return {
            "version": self.version,
            "skipped_updates": self._skipped_updates,
            "skipped_in_a_row": self._skipped_in_a_row,
            "trained_slots": self._admission.state(),
            "adapters": self.behaviour.versions,
            "leap_noise": self._gate.noise,
            "balance": asdict(self._balance),
            "constraint": self._constraint.state,
            "optimizer_counts": optimizer_tensors(self.optimizer.adamw, self.parameters)[1],
            "config": self.config.model_dump(mode="json"),
        }

    def save(self, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint of the whole training state and returns its folder; what is in it is dropped from the
        spool.

        Args:
            extra: JSON values of the loop, given back by `restore`.

        Raises:
            CheckpointError: when `extra` is not JSON. OSError when the disk refuses; earlier checkpoints and the spool
                are as they were.
        """
        tensors: dict[str, Mapping[str, Tensor]] = {
            "adapter": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": optimizer_tensors(self.optimizer.adamw, self.parameters)[0],
            **self.behaviour.tensors(),
        }
        path = save_checkpoint(
            self.checkpoints,
            self.version,
            tensors,
            {"learner": self.state, "extra": dict(extra or {})},
            self.config.checkpoint.keep,
            config_hash(self.config),
            data=self.tasks.fingerprints,
            code=code_fingerprint(self.config.own_modules),
        )
        self.spool.drop(self.version)
        return path

    def restore(self, checkpoint: Checkpoint, allowed: Sequence[str] = ()) -> dict[str, Any]:
        """Takes over a checkpoint, as if this process had made its steps, and returns the `extra` of `save`.

        Args:
            checkpoint: of this run.
            allowed: what may differ all the same, see `training_state.refusal_of_another_run`.

        Raises:
            CheckpointError: when it belongs to another configuration, other data, another editor, or was made by other
                code; the learner is unchanged then.
        """
        state = checkpoint.state["learner"]
        refusal = refusal_of_another_run(checkpoint, self.config, self.tasks.fingerprints, allowed)
        if refusal is not None:
            raise CheckpointError(refusal)
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.tensors["adapter"].items()}
        try:
            check_arrays(self.editor.transformer, arrays)
            restore_optimizer(
                self.optimizer.adamw, self.parameters, checkpoint.tensors["optimizer"], state["optimizer_counts"]
            )
        except (AdapterError, ValueError) as error:
            raise CheckpointError(f"checkpoint {checkpoint.path} fits another editor: {error}") from error
        copy_arrays(self.editor.transformer, arrays)
        self.optimizer.clear()
        self.version = state["version"]
        self._skipped_updates, self._skipped_in_a_row = state["skipped_updates"], state["skipped_in_a_row"]
        self._admission.restore(state["trained_slots"])
        self._gate = PolicyGate(self.config, state["leap_noise"])
        self._balance = Balance(**state["balance"])
        self._constraint.restore(state["constraint"])
        self.behaviour.restore(self.version, state["adapters"], checkpoint.tensors)
        self._begin_step()
        return dict(checkpoint.state["extra"])

    def _begin_step(self) -> None:
        self._held, self._scores, self._totals, self._refused = [], [], StepTotals(), None

    def _hold(self, group: TrajectoryGroup, staleness: int) -> HeldGroup:
        task = self.tasks.train[group.lease.task_index]
        held = hold(self.editor, self.config, task, group, staleness)
        with self._setting_aside(group):
            check_origin(self._gate, held, task, self.editor, self.config)
        return held

    def _put_on_disk(self, group: TrajectoryGroup, scores: GroupScores) -> None:
        name, totals = group.lease.group_id, self._totals
        with self._timed("spool"):
            try:
                seconds = self.spool.write(group, scores, self._admission.waiting)
            except OSError as error:
                totals.unspooled[name] = str(error)
                return
        if seconds is not None:
            totals.spooled[name] = seconds

    def _credited(self, scores: Sequence[GroupScores]) -> list[Credit]:
        return credited_scores(scores, self.config.rewards, self.config.algorithm)

    def _weigh(self, credits: Sequence[Credit]) -> None:
        """Measures the step's groups for the unit of the preservation weights, none before the policy gate has passed
        it."""
        sums = [0.0, 0.0, 0.0]
        for held, credit in zip(self._held, credits, strict=True):
            if held is None:
                continue
            tensors, loss = self._prepared(held, credit)
            if tensors.is_silent:
                continue
            self._find_old_velocities(held, loss)
            with self._timed("accumulate"):
                old = held.behaviour
                if old is None:
                    old = velocities_at(loss.queries, loss.velocity, loss.micro_batch)
                self._check_policy(held, tensors, loss, old)
                sums = [total + norm for total, norm in zip(sums, loss.bare_norms(), strict=True)]
        with self._timed("add_up"):
            self._balance = self._balance.plus(self.peers.total(sums))

    def _prepared(self, held: HeldGroup, credit: Credit) -> tuple[GroupTensors, GroupLoss]:
        tensors = tensors_of(held, credit, self.config)
        return tensors, loss_of(held, tensors, self._method, self.editor, self.config, self._constraint.config)

    def _find_old_velocities(self, held: HeldGroup, loss: GroupLoss) -> None:
        """The behaviour velocities of a group that other weights made than the trained ones."""
        if held.behaviour is None and not held.group.is_given and not self.behaviour.is_trained(held.staleness):
            with self._timed("old_leaps"), self.behaviour.weights(held.group.policy_version, held.staleness):
                held.behaviour = velocities_at(loss.queries, loss.velocity, loss.micro_batch)

    def _check_policy(
        self, held: HeldGroup, tensors: GroupTensors, loss: GroupLoss, old: Tensor
    ) -> tuple[float, float] | None:
        """The policy gate; a group that it refuses is set aside. `old`: the behaviour velocities at the queries. No
        policy made given images."""
        if held.group.is_given:
            return None
        stored = replay(held, tensors, self.config)
        if torch.equal(stored.x, loss.queries.x) and torch.equal(stored.sigma, loss.queries.sigma):
            made = stored.next_states(slice(None), old)
        else:  # a method that asks elsewhere
            with self.behaviour.weights(held.group.policy_version, held.staleness):
                made = replayed(loss.velocity, stored, loss.micro_batch)
        with self._setting_aside(held.group):
            return self._gate.check_policy(held.group, stored, made, loss.velocity)

    def _accumulate(self, held: HeldGroup, credit: Credit, first: bool) -> None:
        """Adds the group's share of the gradient; at its `first` use, the policy gate checks it."""
        config, group, totals = self.config, held.group, self._totals
        tensors, loss = self._prepared(held, credit)
        self._find_old_velocities(held, loss)
        with self._timed("accumulate"):
            stats, velocities = loss.accumulate(
                held.behaviour,
                scale=1 / config.learner.groups_per_step,
                unit=self._balance.unit(config.algorithm),
            )
        totals.stats.append(stats)
        if self._offender is None and not self.optimizer.gradient_is_finite():
            self._offender = group.lease.group_id
        if first:
            on_policy = held.behaviour is None
            if on_policy:
                held.behaviour = velocities
            if held.behaviour is not None:
                checked = self._check_policy(held, tensors, loss, held.behaviour)
                if checked is not None:
                    error, tolerance = checked
                    totals.leap_errors.append(error)
                    totals.leap_tolerance = max(totals.leap_tolerance, tolerance)
            totals.count(group, credit.reward, tensors.is_silent, bool(held.edit_mask.min() == 1), held.staleness)

    def _apply(self, lr: float) -> bool:
        """One optimizer step; False when the gradient was not finite and nothing was changed."""
        norm = self.optimizer.step(lr)
        self._totals.gradient_norms.append(norm)
        finite = math.isfinite(norm)
        if not finite:
            self._skipped_updates += 1
            if self._offender is not None:
                self.spool.keep(self._offender)
        self._offender = None
        return finite

    @contextmanager
    def _setting_aside(self, group: TrajectoryGroup) -> Iterator[None]:
        """Takes a refused group out of the spool: rolled out again it may pass, from the spool it never would. The step
        is not made, as the gradient may have something of it."""
        try:
            yield
        except PolicyGateError:
            self._refused = group.lease.group_id
            self.spool.set_aside(group.lease.group_id)
            raise

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._totals.seconds[phase] += time.monotonic() - start
