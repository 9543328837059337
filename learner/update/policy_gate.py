"""The policy gate: whether a group was made by the policy version, from the task and in the order that it names.

What is compared was made apart, the one by the rollout, the other by the learner, so every part of it can be wrong:

    grid         the noise levels that were stored, against those of the learner's editor
    mask, seed   the digest of the initial noise, against noise drawn anew from the lease and the learner's mask
    order        the stored states of the candidates, against that noise: each follows its own
    policy       the stored next states, against leaps under the weights of the rollout (behaviour leaps)

The last one compares real numbers, and the same weights give other roundings in other batches and processes. How large
those are is measured, not assumed: `measured_noise` leaps from the same states in the batches of training, of the
rollout, and one by one, and groups of policy version 0, under which the adapter changes nothing yet, show what other
processes add. Twice the noise is refused. On the embedded benchmark in bfloat16 the noise is .007 to .009 and weights
one version old differ by .021 to .053; in float32 it is 8e-7. Data-parallel peers share the largest.

A group that is refused changes nothing that is kept: neither the noise nor what `learner.algorithms.preservation_unit`
has measured.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from configs.schema import RunConfig
from editing.flow import Velocity, takes_euler_step
from editing.noise import noise_digest
from editing.rollout_spec import rollout_spec
from editing.trajectory import TrajectoryGroup
from learner.algorithms.replay import Replay, relative_distance, replayed

MARGIN, FIRST_MARGIN = 2.0, 4.0
"""Factors on the noise: of every group, and of groups of version 0, whose own errors are part of the noise."""
FLOOR = {"float32": 5e-6, "bfloat16": 4e-3}
"""Noise by editor dtype below which a measurement is luck: kernels that happen to agree on one machine."""
CEILING = {"float32": 1e-3, "bfloat16": 1e-1}
"""Noise above which an editor cannot be trained: its velocities depend on what else is in the batch."""
GRID_ROUNDING = 1e-6
"""Noise levels are computed on the CPU in float32, whatever the editor's device and dtype, so the same machine gives
the same bits. On another one exp and log may round otherwise; other schedulers differ by thousandths."""
SIGMAS = 8.0
"""Standard deviations of a correlation by which another candidate's noise must explain a state better than its own."""


class PolicyGateError(RuntimeError):
    """A group is not what it claims to be; rolled out again it may pass, from the spool it never would."""


class PolicyGate:
    """Remembers how large the noise of this run is. One per learner process."""

    def __init__(self, config: RunConfig, noise: float | None = None) -> None:
        """`noise` is that of an earlier process of the run, which may have had another machine; with the first group it
        is measured here too."""
        self.noise = noise
        self._here: float | None = None
        self._config = config
        self._dtype, self._micro_batch = config.editor.dtype, config.editor.micro_batch

    def check_made_from(self, group: TrajectoryGroup, noise_mask: Tensor, source: Tensor, grid: Tensor) -> None:
        """Raises PolicyGateError when editor, grid, mask, seed or order are not the learner's.

        Args:
            group: as it came.
            noise_mask: [N], the learner's token mask of the exploration.
            source: [N, C], source latents.
            grid: float32 [T+1], the learner's noise levels.
        """
        name = group.lease.group_id
        check_grid(group, source, grid)
        recipe = rollout_spec(self._config, group.lease).recipe(group.lease)
        noise = recipe.draw(noise_mask, source.shape[-1])
        if noise_digest(noise) != group.noise:
            raise PolicyGateError(
                f"group {name} began from other noise than its seed and the edit mask of task {group.task_id} give "
                "here: worker and learner do not have the same mask, or draw differently"
            )
        found = misplaced(torch.tensor(group.candidates[0]), noise)
        if found is not None:
            raise PolicyGateError(
                f"group {name}: candidate {found[0]} follows the noise of candidate {found[1]}, not its own: the "
                "candidates were reordered between rollout and learner, so that rewards would reach the wrong ones"
            )

    def check_policy(
        self, group: TrajectoryGroup, replay: Replay, behaviour: Tensor, velocity: Velocity
    ) -> tuple[float, float] | None:
        """The replayed steps' error and its tolerance; None where no kept step of the rollout is of first order.

        Args:
            group: as it came.
            replay: its stored transitions.
            behaviour: [P, N, C], next states under the weights of the rollout.
            velocity: under any weights; the noise is measured with it if it was not yet in this process.

        Raises:
            PolicyGateError: when the error is above the tolerance, or the noise above what can be trained with.
        """
        solver, sigmas = self._config.sampler.solver, torch.tensor(group.sigmas)
        rows = [
            row
            for row in range(replay.count)
            if replay.sde is not None or takes_euler_step(solver, sigmas, group.kept_steps[replay.step_of(row)])
        ]
        if not rows:
            return None
        here = self._measured(replay, velocity, group.group_size) if self._here is None else self._here
        noise = here if self.noise is None else self.noise
        first = group.policy_version == 0
        # Of what was measured: else every group of version 0 would widen the tolerance of the next.
        known = here if first else max(noise, here)
        tolerance = (FIRST_MARGIN if first else MARGIN) * max(known, FLOOR[self._dtype])
        error = relative_distance(behaviour, replay.stored, replay, rows)
        if not error <= tolerance:  # NaN fails too
            raise PolicyGateError(
                f"group {group.lease.group_id}: a solver step under policy version {group.policy_version} differs from "
                f"the rollout's by {error:.3g} of its length, expected at most {tolerance:.3g}; the same weights in "
                f"other batches differ by {known:.3g} here. Worker and learner do not hold the same weights, "
                "encode the task alike, or run the same model code on the same kind of device"
            )
        # No later group is allowed more than those of version 0: stale weights would be within it.
        self._here, self.noise = here, max(noise, min(error, tolerance / MARGIN)) if first else noise
        return error, tolerance

    def _measured(self, replay: Replay, velocity: Velocity, group_size: int) -> float:
        noise = measured_noise(replay, velocity, group_size, self._micro_batch)
        if not noise <= CEILING[self._dtype]:
            raise PolicyGateError(
                f"the editor's velocities of equal latents differ by {noise:.3g} of their length between batches, "
                f"expected at most {CEILING[self._dtype]:g} in {self._dtype}: a sample must not depend on what else is "
                "in its batch. Look at the editor's code, or set editor.dtype float32"
            )
        return noise


def check_grid(group: TrajectoryGroup, source: Tensor, grid: Tensor) -> None:
    """Raises PolicyGateError when latents or noise levels are not those of the learner's editor; see `PolicyGate`."""
    name = group.lease.group_id
    if group.candidates.shape[2:] != tuple(source.shape):
        raise PolicyGateError(
            f"group {name} has latents {list(group.candidates.shape[2:])} per candidate, the learner's editor "
            f"makes {list(source.shape)} of task {group.task_id}: the editors differ"
        )
    sigmas = torch.tensor(group.sigmas)
    same = sigmas.shape == grid.shape and bool(((sigmas - grid.cpu()).abs() <= GRID_ROUNDING).all())
    if not same:  # NaN is not
        raise PolicyGateError(
            f"group {name} was integrated over the grid {group.sigmas.tolist()}, the learner's editor has "
            f"{grid.tolist()}: the schedulers differ"
        )


@torch.no_grad()
def measured_noise(replay: Replay, velocity: Velocity, group_size: int, micro_batch: int | None) -> float:
    """Largest relative difference of steps from the same states between the batches in use.

    Those are the training's (`micro_batch` rows), single samples, and the rollout's (`group_size` samples of one
    sigma, for the first anchor of every kept step).
    """
    training = replayed(velocity, replay, micro_batch)
    alone = replayed(velocity, replay, 1)
    found = [relative_distance(alone, training, replay, range(replay.count))]
    firsts = range(0, replay.count, replay.count // replay.steps)
    rollout = training.clone()
    for row in firsts:
        rows = [row] * group_size
        rollout[row] = replay.next_states(rows, velocity(replay.x[rows], replay.sigma[rows]))[0]
    found += [relative_distance(rollout, other, replay, firsts) for other in (training, alone)]
    return float(np.max(found))  # np.max keeps a NaN, Python's max may lose it


def misplaced(states: Tensor, noise: Tensor) -> tuple[int, int] | None:
    """(i, j) where the state of candidate i follows the noise of candidate j rather than its own; None if all do.

    Deviations from the group's mean are correlated over all elements. Unrelated ones correlate by 1 / sqrt(n), with n
    the number of elements in which the noise differs, so a state counts as misplaced above `SIGMAS` of that. Where
    states have forgotten their noise, nothing is found: the check can miss, it does not accuse.

    Args:
        states: [G, N, C], all candidates at one noise level.
        noise: [G, N, C], what they began from.
    """
    deviations = (noise - noise.mean(dim=0)).flatten(1)
    energy = deviations.square().mean(dim=0)
    spread = energy.square().sum()
    if not bool(spread > 0):
        return None
    threshold = SIGMAS / float(energy.sum().square() / spread) ** 0.5
    correlation = _unit((states - states.mean(dim=0)).flatten(1)) @ _unit(deviations).T
    best = correlation.argmax(dim=1)
    excess = correlation.max(dim=1).values - correlation.diagonal()
    worst = int(excess.argmax())
    return (worst, int(best[worst])) if float(excess[worst]) > threshold else None


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)
