"""A rollout worker: one process that holds the editor under one policy version and rolls out leases.

A plain class: wrapped as a Ray actor, or used directly without Ray.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from actors.rollout import roll_out, sample, show
from configs.load import config_hash
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.editors.base import Editor
from editing.editors.lora import without_adapter
from editing.editors.policy import open_policy
from editing.task import Image, TaskError
from editing.trajectory import Generated, Lease, MessageError, Shown, TrajectoryGroup, derive_seed
from editing.weights import WeightProof, WeightVersion


class WrongVersion(RuntimeError):
    """A lease asked for another policy version than the worker holds; nothing was computed."""


GROUP_FAULTS = (TaskError, MessageError, WrongVersion)
"""Faults of one lease, which is then redone elsewhere; any other exception is a fault of the program."""


@dataclass(frozen=True)
class Receipt:
    """A worker's response to new weights: what its modules hold now, and which process it is."""

    proof: WeightProof
    pid: int


class RolloutWorker:
    """Rolls out leases of the policy version it holds.

    Invariant: a group is made by one version from beginning to end, because calls run one after the other.
    It holds no version until the first `set_weights`, so a new worker cannot work before it has proved its
    weights.
    """

    def __init__(self, config: RunConfig, editor: Editor | None = None, tasks: Tasks | None = None) -> None:
        """Opens the editor and the tasks that the configuration names, unless the caller shares its own."""
        torch.set_num_threads(config.cluster.threads_per_process)
        self._config = config
        self._config_hash = config_hash(config)
        self._editor = open_policy(config.editor, config.seed) if editor is None else editor
        self._tasks = open_tasks(config) if tasks is None else tasks
        self._version: int | None = None

    def set_weights(self, weights: WeightVersion) -> Receipt:
        """Takes over a version of the adapter and proves it.

        Raises:
            WeightError: when the version is refused; until it takes one over, the worker holds none.
        """
        self._version = None
        proof = weights.apply(self._editor.transformer)
        self._version = proof.version
        return Receipt(proof, os.getpid())

    def roll_out(self, lease: Lease) -> tuple[Generated, TrajectoryGroup]:
        """The group of a lease, and a small message about it for the driver.

        Raises:
            WrongVersion: when the lease asks for a version the worker does not hold.
            TaskError: when the task went bad.
            MessageError: when latents or pixels are not finite.
        """
        if lease.policy_version != self._version:
            raise WrongVersion(
                f"lease {lease.group_id} asks for policy version {lease.policy_version}, but worker "
                f"{os.getpid()} holds {self._version}"
            )
        task = self._tasks.train[lease.task_index]
        group = roll_out(self._editor, task, lease, self._config, self._config_hash)
        generated = Generated(lease, group.task_id, group.policy_version, group.config_hash, group.seconds, os.getpid())
        return generated, group

    def sample_held_out(self, indices: Sequence[int], base: bool) -> list[Image]:
        """The held-out tasks as the held version edits them (`base`: as the editor without adapter does).

        A task's noise follows from its index alone: base and trained, every run and every worker, the same.

        Raises:
            TaskError: when a task went bad.
            MessageError: when latents or pixels are not finite.
        """
        sampler = self._config.sampler
        with self._policy(base):
            return [
                sample(
                    self._editor,
                    self._tasks.held_out[index],
                    held_out_seed(index),
                    sampler.evaluation_steps,
                    sampler.solver,
                )
                for index in indices
            ]

    def show_held_out(self, indices: Sequence[int], base: bool) -> list[Shown]:
        """The images of `sample_held_out`, with the attention of the text over each; raises as it."""
        sampler = self._config.sampler
        with self._policy(base):
            return [
                show(
                    self._editor,
                    self._tasks.held_out[index],
                    index,
                    held_out_seed(index),
                    sampler.evaluation_steps,
                    sampler.solver,
                    self._config.rewards.acd_blocks,
                )
                for index in indices
            ]

    def _policy(self, base: bool) -> AbstractContextManager[None]:
        return without_adapter(self._editor.transformer) if base else nullcontext()


def held_out_seed(index: int) -> int:
    """The seed of a held-out task's noise: the same in every run, so that runs are compared like for like."""
    return derive_seed("held-out", index)
