"""What a rollout does and keeps, derived from the configured method: all that actors need to know of it.

A method learns from transitions of its rollouts: the state of a candidate at sigma[j] (its predecessor) and at
sigma[j + 1]. `RolloutSpec` says which of them are kept, how the initial noise of a group differs between candidates,
and at which steps noise is added on the way. For a method that learns from given images there is nothing to integrate:
they are the candidates, at the end of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from configs.data_methods import DataMethod
from configs.method_families import AnchorMethod, LikelihoodMethod, RolloutMethod
from configs.schema import RunConfig
from editing.flow import SdeKind, Solver, StepNoise
from editing.given import Given
from editing.noise import REFERENCE_INDEX, NoiseRecipe
from editing.random_draws import draw
from editing.trajectory import Lease


@dataclass(frozen=True)
class RolloutSpec:
    """The rollout of one group.

    Attributes:
        group_size: G, the reference included.
        alpha_edit, alpha_base: perturbation of the initial noise inside and outside the mask (`editing.noise`): both 0
            is the same noise for all candidates, both 1 noise of their own.
        steps: T, solver steps.
        solver: of the deterministic steps.
        kept: steps j, rising, whose transitions are kept: the states of all candidates at sigma[j + 1], and those at
            sigma[j] of the anchors.
        anchors: rising indices of the candidates whose predecessors are kept.
        noisy: steps, rising, at which noise is added (`editing.flow.sde_step`).
        sde: kind of these steps; None without any.
        level: their noise level.
        shared: steps at the start that are integrated once for the whole group, which then begins from one state.
        given: the images that are the candidates, so that nothing is rolled out; None for rollouts.
    """

    group_size: int
    alpha_edit: float
    alpha_base: float
    steps: int
    solver: Solver
    kept: tuple[int, ...]
    anchors: tuple[int, ...]
    noisy: tuple[int, ...] = ()
    sde: SdeKind | None = None
    level: float = 0.0
    shared: int = 0
    given: Given | None = None

    def recipe(self, lease: Lease) -> NoiseRecipe:
        """The noise of a group."""
        return NoiseRecipe(lease.seed, self.alpha_edit, self.alpha_base, self.group_size)

    def added(self, recipe: NoiseRecipe, initial: Tensor) -> StepNoise | None:
        """What is added on the way to candidates that began as `initial` [G, N, C]; None for the ODE."""
        if self.sde is None:
            return None
        noise = {step: recipe.draw_step(step, range(len(initial)), *initial.shape[1:]) for step in self.noisy}
        return StepNoise(noise, self.sde, self.level)


def rollout_spec(config: RunConfig, lease: Lease) -> RolloutSpec:
    """The rollout that the configured method wants of a lease; what is random in it follows from the lease's seed."""
    method, sampler = config.algorithm, config.sampler
    size, steps = config.group_size, sampler.steps
    if isinstance(method, DataMethod):
        return RolloutSpec(
            size, 0.0, 0.0, steps, sampler.solver, (steps - 1,), (), given=Given(method.given, method.background)
        )
    assert isinstance(method, RolloutMethod)
    common = (size, method.alpha_edit, method.alpha_base, steps, sampler.solver)
    if method.family == "transitions":
        assert isinstance(method, LikelihoodMethod)
        window = method.window(steps, lease.step)
        trained = window if method.fraction == 1 else draw(lease.seed, "steps", window, method.trained(len(window)))
        return RolloutSpec(
            *common,
            kept=trained,
            anchors=tuple(range(size)),
            noisy=window,
            sde=method.sde,
            level=method.noise_level,
            shared=window[0] if method.shared_prefix else 0,
        )
    if method.family == "anchors":
        assert isinstance(method, AnchorMethod)
        kept = method.kept_steps(steps)
        return RolloutSpec(*common, kept=kept, anchors=draw_anchors(lease.seed, size, method.anchors))
    # Of a method that learns from the images alone: the last step of one candidate, by which the policy gate proves
    # which weights made the group.
    return RolloutSpec(*common, kept=(steps - 1,), anchors=draw_anchors(lease.seed, size, 1))


def draw_anchors(seed: int, group_size: int, count: int) -> tuple[int, ...]:
    """`count` of the perturbed candidates 1..G-1, uniform without replacement, rising.

    The reference is never an anchor (arXiv 2604.09386, sec. 1.1 item 3).
    """
    return draw(seed, "anchors", range(REFERENCE_INDEX + 1, group_size), count)
