"""The deterministic ODE from noise (sigma = 1) to image (sigma = 0), single steps of it, and random steps.

Convention: x_sigma = (1 - sigma) * x0 + sigma * eps and v = eps - x0, so dx/dsigma = v. State j of a
trajectory is x at sigmas[j], j = 0..T. Everything is float32 at least and differentiable; callers choose
`torch.no_grad`.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from editing.token_mask import at_least_float32

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [B, N, C], sigma [B]) -> v [B, N, C]."""

Solver = Literal["euler", "dpm2m"]
"""`euler`: first order. `dpm2m`: DPM-Solver++(2M), second order. Both make one velocity call per step."""

SdeKind = Literal["sde", "cps", "dance"]
"""`sde`: Flow-GRPO's step. `dance`: DanceGRPO's, with constant noise. `cps`: the one that preserves coefficients."""


MAX_STRETCH = 10.0
"""Longest step of `dpm2m`, relative to the one before it, that is corrected by that one's slope."""


@dataclass(frozen=True)
class Trajectory:
    """An integrated batch: `final` is x at the last sigma, `states[j]` x at sigmas[j], all [B, N, C]."""

    final: Tensor
    states: dict[int, Tensor]


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """x at sigma_next: x + (sigma_next - sigma) * v.

    Bit-equal to the step of diffusers' FlowMatchEulerDiscreteScheduler, and the same function in rollout and
    training: that is why an anchor's one-step prediction reproduces the stored state.

    Args:
        x: [B, N, C]; half precision is taken to float32 first.
        velocity: [B, N, C].
        sigma: a number, or one per sample [B]; rounded to the dtype of x first, as the grid is.
        sigma_next: likewise.
    """
    # In half precision a short step would be lost in the rounding of the state.
    x = at_least_float32(x)
    return x + (_per_sample(sigma_next, x) - _per_sample(sigma, x)) * velocity.to(x.dtype)


def predicted_clean(x: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """x0_hat = x - sigma * v, the clean latents [B, N, C] that (x, v) point at; sigma a number or [B]."""
    return x - _per_sample(sigma, x) * velocity


def forward_noised(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """x_sigma = (1 - sigma) * x0 + sigma * noise, the state [B, N, C] on the straight line from clean latents to noise.

    The inverse of `predicted_clean` along the line: predicted_clean(x_sigma, noise - x0, sigma) = x0.

    Args:
        x0: [B, N, C]; half precision is taken to float32 first.
        noise: [B, N, C], drawn by the caller.
        sigma: a number, or one per sample [B], in [0, 1].

    Raises:
        ValueError: for mismatched shapes, or a sigma outside [0, 1] (NaN included).
    """
    if noise.shape != x0.shape:
        raise ValueError(f"noise: expected the shape of x0, {list(x0.shape)}, got {list(noise.shape)}.")
    x0, noise = at_least_float32(x0), at_least_float32(noise)
    level = _per_sample(sigma, x0)
    if not bool(((level >= 0) & (level <= 1)).all()):  # NaN fails too
        raise ValueError(f"sigma: expected values in [0, 1] (1 = noise, 0 = image), got {sigma}.")
    return (1 - level) * x0 + level * noise


def leap(velocity: Velocity, x_prev: Tensor, sigma_prev: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """The anchor state [B, N, C]: one Euler step from the stored state, gradient through one velocity call.

    Adopted for Eq. 13 of arXiv 2604.09386, following the training solver of Neighbor GRPO (arXiv 2511.16955):
    xbar_t = x_{t+dt} - dt * v_theta(x_{t+dt}, t+dt). Under the weights and the Euler grid of the rollout it
    equals the stored next state. A caller that also needs the velocity (for `predicted_clean`, say) calls the
    model itself and then `euler_step`.

    Args:
        velocity: (x [B, N, C], sigma [B]) -> v [B, N, C].
        x_prev: [B, N, C], stored states at sigma_prev, constants.
        sigma_prev: a number, or one per sample [B].
        sigma_next: a number, or one per sample [B], below sigma_prev.

    Raises:
        ValueError: when sigma_next is not below sigma_prev (NaN included).
    """
    x_prev = at_least_float32(x_prev)
    if not bool((_per_sample(sigma_next, x_prev) < _per_sample(sigma_prev, x_prev)).all()):
        raise ValueError(
            f"a one-step prediction goes down the noise levels: expected sigma_next below sigma_prev, got "
            f"{sigma_next} after {sigma_prev}."
        )
    sigma = _per_sample(sigma_prev, x_prev).reshape(-1).expand(x_prev.shape[0])
    return euler_step(x_prev, _evaluate(velocity, x_prev, sigma), sigma_prev, sigma_next)


def sde_moments(
    x: Tensor,
    velocity: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    kind: SdeKind,
    level: float,
    sigma_max: float,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the Gaussian that a random step to sigma_next draws from.

    With t = sigma, t' = sigma_next, dt = t' - t < 0, x0_hat = x - t v and eps_hat = x + (1 - t) v:

        sde    mean = x (1 + s^2 dt / (2t)) + v (1 + s^2 (1 - t) / (2t)) dt,    std = s sqrt(-dt),
               s = level * sqrt(t / (1 - min(t, sigma_max)))
        dance  the same with s = level
        cps    mean = (1 - t') x0_hat + sqrt(t'^2 - std^2) eps_hat,              std = t' sin(level * pi / 2)

    `sde` is Flow-GRPO (arXiv 2505.05470), `cps` its later variant, both as in the released code, yifan123/flow_grpo @
    ac4c86e; `dance` is DanceGRPO, XueZeyue/DanceGRPO @ 15cc71d. That one writes mean = x + v dt - (s^2 / 2) score dt
    with score = -(x - (1 - t) x0_hat) / t^2. Since x - (1 - t) x0_hat = t eps_hat, the score is -eps_hat / t, and
    both are x + v dt + (s^2 dt / (2t)) eps_hat, the mean of `sde`.

    `sde` and `dance` have the marginals of the ODE in the limit of small steps. `cps` keeps the coefficient 1 - t' of
    x0_hat and the noise's variance t'^2 at any step, yet not those marginals, however small the steps: x0_hat, a
    posterior mean, varies less than images do.

    All three are computed as Euler step + pull * eps_hat, so at level 0 each is bit-equal to `euler_step`. The noise
    of `sde` would be infinite at t = 1: the first step of a grid takes sigma_max in the denominator. It is told by its
    place above sigma_max, since some grids start at .9999.

    Args:
        x: [B, N, C]; half precision is taken to float32 first.
        velocity: [B, N, C].
        sigma: a number, or one per sample [B], within (0, 1].
        sigma_next: likewise, below sigma, at least 0.
        kind: "sde", "cps" or "dance".
        level: strength of the noise: at least 0 and finite, for `cps` at most 1.
        sigma_max: the grid's second noise level, sigmas[1], within [0, 1).

    Returns:
        mean [B, N, C], differentiable, and std, [B, 1, 1] or 0-dim, without gradient.

    Raises:
        ValueError: for another kind, mismatched shapes, or values out of range (NaN included).
    """
    if kind not in get_args(SdeKind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(SdeKind))}, got {kind!r}.")
    if not 0 <= level < math.inf or (kind == "cps" and level > 1):
        raise ValueError(f"level: expected a finite value of at least 0, for cps at most 1, got {level} for {kind}.")
    if not 0 <= sigma_max < 1:
        raise ValueError(f"sigma_max: expected the grid's second noise level, in [0, 1), got {sigma_max}.")
    if velocity.shape != x.shape:
        raise ValueError(f"velocity: expected the shape of x, {list(x.shape)}, got {list(velocity.shape)}.")
    x = at_least_float32(x)
    t, t_next = _per_sample(sigma, x), _per_sample(sigma_next, x)
    if not bool(((t_next >= 0) & (t_next < t) & (t <= 1)).all()):
        raise ValueError(
            f"a random step goes down the noise levels within [0, 1]: expected sigma_next below sigma, got "
            f"{sigma_next} after {sigma}."
        )
    if kind == "cps":
        std = t_next * math.sin(level * math.pi / 2)
        pull = t_next * (math.cos(level * math.pi / 2) - 1)
    else:
        scale = level * (t / (1 - t.clamp(max=sigma_max))).sqrt() if kind == "sde" else torch.full_like(t, level)
        std = scale * (t - t_next).sqrt()
        pull = -std.square() / (2 * t)
    noise_estimate = x + (1 - t) * velocity.to(x.dtype)
    return euler_step(x, velocity, sigma, sigma_next) + pull * noise_estimate, std


def sde_step(
    x: Tensor,
    velocity: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    kind: SdeKind,
    level: float,
    noise: Tensor,
    sigma_max: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One random step: (mean + std * noise [B, N, C], mean [B, N, C], std [B, 1, 1] or 0-dim).

    Args:
        noise: [B, N, C], drawn from N(0, I).
        x, velocity, sigma, sigma_next, kind, level, sigma_max: see `sde_moments`.

    Raises:
        ValueError: as `sde_moments`, and for noise of another shape than x.
    """
    if noise.shape != x.shape:
        raise ValueError(f"noise: expected the shape of x, {list(x.shape)}, got {list(noise.shape)}.")
    mean, std = sde_moments(x, velocity, sigma, sigma_next, kind, level, sigma_max)
    return mean + std * noise.to(mean.dtype), mean, std


@dataclass(frozen=True, eq=False)
class StepNoise:
    """Noise on the way: `noise[j]` [B, N, C] is added at step j by `sde_step` of this kind and level."""

    noise: Mapping[int, Tensor]
    kind: SdeKind
    level: float


def integrate(
    velocity: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    solver: Solver,
    keep: Collection[int] = (),
    added: StepNoise | None = None,
    shared: int = 0,
) -> Trajectory:
    """The trajectory from `noise` along the grid, T velocity calls for T steps.

    `dpm2m` is DPM-Solver++(2M) (arXiv 2211.01095, Alg. 2) for flow matching, where alpha = 1 - sigma:

        x0_j    = x_j - sigma_j * v_j
        D_j     = x0_j + (h / (2 * h_prev)) * (x0_j - x0_{j-1}),      h = lambda_{j+1} - lambda_j
        x_{j+1} = (sigma_{j+1} / sigma_j) * x_j + (1 - sigma_{j+1} / sigma_j) * D_j

    with lambda = log((1 - sigma) / sigma). The first step and a last one that reaches sigma = 0 are Euler
    steps (lambda is infinite there), so the order is 2 within (0, 1) and 2 up to a logarithm on [0, 1]; so is one
    that is more than `MAX_STRETCH` times as long as the one before. Its
    states differ from one-step predictions, so those of theta_old must be recomputed.

    Args:
        velocity: (x [B, N, C], sigma [B]) -> v [B, N, C].
        noise: [B, N, C], x at sigmas[0].
        sigmas: [T+1], falling, within [0, 1].
        solver: "euler" or "dpm2m".
        keep: steps j in 0..T whose states are returned; state 0 is `noise` itself, not a copy, when that is
            float32.
        added: noise at some of the steps, which are first-order steps then; None for the ODE.
        shared: steps at the start that are made once, from the first sample, for all; the noise of all samples must
            be the same.

    Raises:
        ValueError: for a bad grid, solver, step, or a velocity of another shape than x.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"solver: expected one of {', '.join(get_args(Solver))}, got {solver!r}.")
    grid = _checked_grid(sigmas)
    steps = len(grid) - 1
    outside = sorted(step for step in keep if not 0 <= step <= steps)
    if outside:
        raise ValueError(f"kept steps: expected values in 0..{steps} for {steps} solver steps, got {outside}.")
    x = at_least_float32(noise)
    sigmas = sigmas.to(device=x.device, dtype=x.dtype)
    states = {0: x} if 0 in keep else {}
    previous: Tensor | None = None
    batch = x.shape[0]
    x = x[:1] if shared else x
    for step in range(steps):
        x = x.expand(batch, *x.shape[1:]) if step == shared else x
        v = _evaluate(velocity, x, sigmas[step].expand(x.shape[0]))
        if added is not None and step in added.noise:
            # The next step starts anew: its slope would be that of the noise.
            given = added.noise[step].to(x)
            x, previous = sde_step(x, v, grid[step], grid[step + 1], added.kind, added.level, given, grid[1])[0], None
        elif solver == "euler":
            x = euler_step(x, v, sigmas[step], sigmas[step + 1])
        else:
            clean = predicted_clean(x, v, sigmas[step])
            x, previous = _multistep(x, v, clean, previous, grid, step), clean
        if step + 1 in keep:
            states[step + 1] = x.expand(batch, *x.shape[1:])
    return Trajectory(final=x, states=states)


def takes_euler_step(solver: Solver, sigmas: Tensor, step: int) -> bool:
    """Whether step j of `integrate` is an Euler step, so that its result is a one-step prediction (`leap`).

    All are with `euler`. With `dpm2m` the first, the second after a start at sigma = 1 (where the correction vanishes),
    one that reaches sigma = 0, and one after a step that was too short to tell a slope.
    """
    return solver == "euler" or _correction(sigmas.tolist(), step) == 0.0


def _multistep(x: Tensor, v: Tensor, clean: Tensor, previous: Tensor | None, grid: list[float], step: int) -> Tensor:
    """The state after `step` by DPM-Solver++(2M): an Euler step, corrected by the last clean estimate."""
    euler = euler_step(x, v, grid[step], grid[step + 1])
    weight = _correction(grid, step)
    return euler if previous is None or weight == 0.0 else euler + weight * (clean - previous)


def _correction(grid: list[float], step: int) -> float:
    """(1 - sigma_{j+1} / sigma_j) * h / (2 * h_prev), the weight of x0_j - x0_{j-1}; 0 where the step is Euler's."""
    if step == 0 or grid[step - 1] == 1.0 or grid[step + 1] == 0.0:  # h_prev or h is infinite
        return 0.0
    h = _log_ratio(grid[step + 1]) - _log_ratio(grid[step])
    h_prev = _log_ratio(grid[step]) - _log_ratio(grid[step - 1])
    # Two nearly equal noise levels: their clean estimates differ by rounding error, which h / h_prev amplifies.
    if h > MAX_STRETCH * h_prev:
        return 0.0
    return (1 - grid[step + 1] / grid[step]) * h / (2 * h_prev)


def _log_ratio(sigma: float) -> float:
    """lambda = log(alpha / sigma), half the log signal-to-noise ratio; -inf at sigma = 1."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _evaluate(velocity: Velocity, x: Tensor, sigma: Tensor) -> Tensor:
    v = velocity(x, sigma)
    if v.shape != x.shape:
        raise ValueError(
            f"velocity: expected the shape of its input, {list(x.shape)}, got {list(v.shape)}. "
            "Slice a velocity that includes the reference tokens to the generated ones."
        )
    return v.to(x.dtype)


def _per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """`sigma` (a number or [B]) in the dtype of x, shaped to broadcast over [B, N, C]."""
    value = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if value.ndim == 0:
        return value
    if value.shape != x.shape[:1]:
        raise ValueError(f"sigma: expected a number or one value per sample, [{x.shape[0]}], got {list(value.shape)}.")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _checked_grid(sigmas: Tensor) -> list[float]:
    if sigmas.ndim != 1 or sigmas.shape[0] < 2:
        raise ValueError(f"sigmas: expected [T+1] with T >= 1, got {list(sigmas.shape)}.")
    grid: list[float] = sigmas.tolist()
    falling = all(a > b for a, b in pairwise(grid))
    if not (falling and grid[0] <= 1.0 and grid[-1] >= 0.0):
        raise ValueError(
            "sigmas: expected strictly falling values in [0, 1] (1 = noise, 0 = image), got "
            + ", ".join(f"{value:g}" for value in grid)
            + "."
        )
    return grid
