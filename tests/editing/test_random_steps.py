"""Tests of the random steps of editing.flow, one by one and in whole integrations."""

import math
from itertools import pairwise

import pytest
import torch

from editing.flow import StepNoise, euler_step, integrate, sde_moments, sde_step
from tests.editing.test_flow import MEAN, gaussian_velocity, variance

KINDS = ("sde", "cps", "dance")


def moments_by_hand(x: float, v: float, t: float, t_next: float, kind: str, level: float, sigma_max: float):
    """The formulas of the papers for one element."""
    clean, noise, dt = x - t * v, x + (1 - t) * v, t_next - t
    if kind == "cps":
        std = t_next * math.sin(level * math.pi / 2)
        return clean * (1 - t_next) + noise * math.sqrt(t_next**2 - std**2), std
    if kind == "sde":
        s = level * math.sqrt(t / (1 - (sigma_max if t > sigma_max else t)))
        mean = x * (1 + s**2 * dt / (2 * t)) + v * (1 + s**2 * (1 - t) / (2 * t)) * dt
        return mean, s * math.sqrt(-dt)
    score = -(x - (1 - t) * clean) / t**2
    return x + v * dt - level**2 / 2 * score * dt, level * math.sqrt(-dt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("grid", [[1.0, 0.83, 0.41, 0.0], [0.9999, 0.6, 0.02, 0.001], [1.0, 0.0]])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 1, 7)])
def test_random_steps_equal_the_formulas_written_as_loops(kind, level, grid, shape):
    g = torch.Generator().manual_seed(9)
    x, v, noise = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    for t, t_next in pairwise(grid):
        x_next, mean, std = sde_step(x, v, t, t_next, kind, level, noise, grid[1])
        assert std.ndim == 0
        for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, 3).tolist():
            at = tuple(index)
            want, spread = moments_by_hand(x[at].item(), v[at].item(), t, t_next, kind, level, grid[1])
            assert mean[at].item() == pytest.approx(want, rel=1e-12, abs=1e-12)
            assert std.item() == pytest.approx(spread, rel=1e-12, abs=1e-15)
            assert x_next[at].item() == pytest.approx(want + spread * noise[at].item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_batch_at_different_noise_levels_are_stepped_each_by_its_own(kind):
    g = torch.Generator().manual_seed(10)
    x, v, noise = (torch.randn(3, 5, 7, generator=g) for _ in range(3))
    sigmas, following = torch.tensor([1.0, 0.8, 0.15]), torch.tensor([0.8, 0.15, 0.0])
    x_next, mean, std = sde_step(x, v, sigmas, following, kind, 0.7, noise, 0.8)
    assert std.shape == (3, 1, 1)
    for b in range(3):
        one = sde_step(x[b : b + 1], v[b : b + 1], sigmas[b], following[b], kind, 0.7, noise[b : b + 1], 0.8)
        assert (
            torch.equal(x_next[b], one[0][0]) and torch.equal(mean[b], one[1][0]) and torch.equal(std[b, 0, 0], one[2])
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_random_step_of_level_zero_is_the_euler_step_bit_for_bit(kind, dtype):
    g = torch.Generator().manual_seed(11)
    x, v, noise = (torch.randn(3, 17, 5, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    for t, t_next in ((1.0, 0.9), (0.9999, 0.3), (0.3, 0.29), (0.3, 0.0)):
        x_next, mean, std = sde_step(x, v, t, t_next, kind, 0.0, noise, 0.9)
        assert torch.equal(x_next, euler_step(x, v, t, t_next)) and torch.equal(mean, x_next) and std == 0
        assert mean.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_step_in_half_precision_is_that_of_the_same_values_in_float32(kind):
    g = torch.Generator().manual_seed(12)
    x, v, noise = (torch.randn(2, 3, 4, generator=g).half() for _ in range(3))
    found = sde_step(x, v, 0.7, 0.695, kind, 0.7, noise, 0.9)
    for got, want in zip(found, sde_step(x.float(), v.float(), 0.7, 0.695, kind, 0.7, noise.float(), 0.9), strict=True):
        assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.parametrize("level", [0.2, 0.8, 1.0])
@pytest.mark.parametrize(("t", "t_next"), [(1.0, 0.7), (0.9999, 0.2), (0.5, 0.49), (0.3, 0.0)])
def test_cps_preserves_the_coefficients_of_image_and_noise(level, t, t_next):
    """x = (1 - t) x0 + t eps with its own velocity: the mean is linear in x0 and eps, so two points show both."""

    def stepped(clean: float, noise: float) -> tuple[float, float]:
        x = torch.full((1, 1, 1), (1 - t) * clean + t * noise, dtype=torch.float64)
        v = torch.full_like(x, noise - clean)
        mean, std = sde_moments(x, v, t, t_next, "cps", level, 0.9)
        return mean.item(), std.item()

    of_image, std = stepped(1.0, 0.0)
    of_noise, _ = stepped(0.0, 1.0)
    assert of_image == pytest.approx(1 - t_next, abs=1e-14)
    assert of_noise**2 + std**2 == pytest.approx(t_next**2, abs=1e-14)


def random_moments(kind: str, level: float, grid: torch.Tensor) -> tuple[float, float]:
    """Mean and variance after the grid on the Gaussian toy, exact: each step is affine in x, plus noise."""
    mean, spread = (1 - grid[0].item()) * MEAN, variance(grid[0].item())
    two = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    for t, t_next in pairwise(grid.tolist()):
        v = gaussian_velocity(two, torch.full((2,), t, dtype=torch.float64))
        (start, end), std = (part.flatten().tolist() for part in sde_moments(two, v, t, t_next, kind, level, grid[1]))
        mean, spread = start + (end - start) * mean, (end - start) ** 2 * spread + std[0] ** 2
    return mean, spread


def bias(kind: str, level: float, start: float, steps: int) -> float:
    """Error of the variance at .1 against the ODE's; that of the mean is zero but for rounding."""
    mean, spread = random_moments(kind, level, torch.linspace(start, 0.1, steps + 1, dtype=torch.float64))
    assert mean == pytest.approx(0.9 * MEAN, abs=1e-12)
    return spread - variance(0.1)


@pytest.mark.parametrize(("kind", "level"), [("sde", 0.7), ("dance", 0.3), ("dance", 1.0)])
def test_small_random_steps_have_the_marginals_of_the_ode(kind, level):
    assert bias(kind, level, 0.9, 50) / bias(kind, level, 0.9, 200) == pytest.approx(4, rel=0.1)
    assert abs(bias(kind, level, 0.9, 200)) < 1.5e-3
    for start in (1.0, 0.9999):
        assert abs(bias(kind, level, start, 200)) < 1.5e-3


def test_cps_narrows_the_marginals_however_small_the_steps():
    """The exact x0_hat is a posterior mean and varies less than the images; `cps` draws the noise around it anew."""
    assert bias("cps", 0.8, 0.9, 200) < bias("cps", 0.8, 0.9, 800) < -0.3 * variance(0.1)


@pytest.mark.parametrize(("kind", "level"), [("sde", 0.7), ("dance", 0.5), ("cps", 0.8)])
def test_random_paths_have_the_mean_and_variance_of_their_recursion(kind, level):
    grid = torch.linspace(0.9999, 0.1, 49, dtype=torch.float64)
    samples, g = 20_000, torch.Generator().manual_seed(13)

    def draw() -> torch.Tensor:
        return torch.randn(samples, 1, 1, generator=g, dtype=torch.float64)

    x = (1 - grid[0]) * MEAN + variance(grid[0]).sqrt() * draw()
    for t, t_next in pairwise(grid):
        v = gaussian_velocity(x, t.expand(samples))
        x, _, _ = sde_step(x, v, t, t_next, kind, level, draw(), grid[1].item())
    mean, spread = random_moments(kind, level, grid)
    # Four standard errors of the mean and of the variance of Gaussian samples.
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(spread / samples))
    assert x.var().item() == pytest.approx(spread, abs=4 * spread * math.sqrt(2 / samples))
    if kind != "cps":  # so the ODE's own marginals are within the sampling error and the bias of 48 steps
        assert x.mean().item() == pytest.approx(0.9 * MEAN, abs=4 * math.sqrt(spread / samples))
        assert x.var().item() == pytest.approx(variance(0.1), abs=4 * spread * math.sqrt(2 / samples) + 2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_random_step_goes_through_its_velocity(kind):
    v = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(14), dtype=torch.float64).requires_grad_()
    x, t, t_next, level = torch.ones(2, 3, 2, dtype=torch.float64), 0.6, 0.4, 0.7
    x_next, mean, std = sde_step(x, v, t, t_next, kind, level, torch.ones_like(x), 0.9)
    x_next.sum().backward()
    zero, one = (moments_by_hand(1.0, value, t, t_next, kind, level, 0.9)[0] for value in (0.0, 1.0))
    torch.testing.assert_close(v.grad, torch.full_like(v, one - zero), rtol=1e-12, atol=0)
    assert mean.requires_grad and not std.requires_grad


def test_the_first_level_is_told_by_its_place_in_the_grid():
    """Starts at 1, at .9999 and a hair below take the second level in the denominator; the second level its own."""
    x = torch.zeros(1, 1, 1, dtype=torch.float64)

    def scale(t: float) -> float:
        return sde_moments(x, x, t, 0.5, "sde", 1.0, 0.9)[1].item() / math.sqrt(t - 0.5)

    for t in (1.0, 0.9999, 0.9000001, 0.9):
        assert scale(t) == pytest.approx(math.sqrt(t / 0.1), rel=1e-12)
    assert scale(0.8) == pytest.approx(2.0, rel=1e-12)


def test_faults_of_random_steps_are_sentences():
    x = torch.zeros(2, 3, 4)

    def step(sigma=0.5, sigma_next=0.4, kind="sde", level=0.7, sigma_max=0.9, velocity=x, noise=x):
        return sde_step(x, velocity, sigma, sigma_next, kind, level, noise, sigma_max)

    with pytest.raises(ValueError, match="kind: expected one of sde, cps, dance, got 'ode'"):
        step(kind="ode")
    for kind, level in (("sde", -0.1), ("dance", math.inf), ("cps", 1.01), ("cps", math.nan)):
        with pytest.raises(ValueError, match=f"level: expected .* for cps at most 1, got {level} for {kind}"):
            step(kind=kind, level=level)
    for sigma, sigma_next in ((0.5, 0.5), (0.4, 0.5), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.1), (0.5, math.nan)):
        with pytest.raises(ValueError, match="expected sigma_next below sigma"):
            step(sigma, sigma_next)
    with pytest.raises(ValueError, match="expected sigma_next below sigma"):
        step(torch.tensor([0.5, 0.9]), torch.tensor([0.4, 0.9]))
    for sigma_max in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="sigma_max: expected the grid's second noise level"):
            step(sigma_max=sigma_max)
    with pytest.raises(ValueError, match=r"velocity: expected the shape of x, \[2, 3, 4\], got \[2, 2, 4\]"):
        step(velocity=x[:, :2])
    with pytest.raises(ValueError, match=r"noise: expected the shape of x, \[2, 3, 4\], got \[3, 4\]"):
        step(noise=x[0])
    with pytest.raises(ValueError, match=r"one value per sample, \[2\], got \[3\]"):
        step(sigma=torch.ones(3))


@pytest.mark.parametrize("solver", ["euler", "dpm2m"])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_a_shared_prefix_and_noise_on_the_way_are_a_plain_loop(solver, shared):
    generator = torch.Generator().manual_seed(3)
    grid = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    start = torch.randn(1, 5, 2, generator=generator, dtype=torch.float64).expand(3, 5, 2)
    noise = {step: torch.randn(3, 5, 2, generator=generator, dtype=torch.float64) for step in (shared, shared + 1)}
    calls = []

    def velocity(x, sigma):
        calls.append(len(x))
        return gaussian_velocity(x, sigma)

    made = integrate(velocity, start, grid, solver, range(5), StepNoise(noise, "sde", 0.6), shared)
    assert calls == [1] * shared + [3] * (4 - shared)
    for candidate in range(3):
        x, before = start[:1], None
        for step, (now, following) in enumerate(pairwise(grid.tolist())):
            torch.testing.assert_close(made.states[step][candidate], x[0], rtol=1e-12, atol=1e-12)
            v = gaussian_velocity(x, grid[step].reshape(1))
            if step in noise:
                given = noise[step][candidate][None]
                x, before = sde_step(x, v, now, following, "sde", 0.6, given, grid[1].item())[0], None
                continue
            clean, x = x - now * v, x + (following - now) * v
            if solver == "dpm2m" and before is not None and following > 0 and grid[step - 1] < 1:
                h, h_before = (
                    math.log((1 - b) / b) - math.log((1 - a) / a)
                    for a, b in ((now, following), (grid[step - 1].item(), now))
                )
                x = x + (1 - following / now) * h / (2 * h_before) * (clean - before)
            before = clean
        torch.testing.assert_close(made.final[candidate], x[0], rtol=1e-12, atol=1e-12)
