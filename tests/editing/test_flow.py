import math

import pytest
import torch

from editing.flow import (
    euler_step,
    forward_noised,
    integrate,
    leap,
    predicted_clean,
    takes_euler_step,
)

MEAN, SPREAD = 0.7, 0.4
Z = torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1)


def variance(sigma):
    return (1 - sigma) ** 2 * SPREAD**2 + sigma**2


def gaussian_velocity(x, sigma):
    """The exact velocity when the data is N(MEAN, SPREAD^2)."""
    t = sigma.view(-1, 1, 1)
    slope = (t - (1 - t) * SPREAD**2) / variance(t)
    return slope * (x - (1 - t) * MEAN) - MEAN


def gaussian_path(sigma: float) -> torch.Tensor:
    return (1 - sigma) * MEAN + math.sqrt(variance(sigma)) * Z


def error(solver: str, steps: int, start: float = 1.0, end: float = 0.0) -> float:
    grid = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    final = integrate(gaussian_velocity, gaussian_path(start), grid, solver).final
    return (final - gaussian_path(end)).abs().max().item()


def order(solver: str, steps: int, start: float = 1.0, end: float = 0.0) -> float:
    return math.log2(error(solver, steps, start, end) / error(solver, 2 * steps, start, end))


def test_order_of_accuracy_against_the_closed_form():
    assert order("euler", 128) == pytest.approx(1.0, abs=0.05)
    assert order("euler", 128, 0.9, 0.1) == pytest.approx(1.0, abs=0.05)
    assert order("dpm2m", 128, 0.9, 0.1) == pytest.approx(2.0, abs=0.05)
    # At sigma = 0 and 1 the log signal-to-noise ratio is infinite, which costs a logarithm.
    assert 1.6 < order("dpm2m", 256) < 2.1
    assert error("dpm2m", 8) < error("euler", 8) / 2


@pytest.mark.parametrize("solver", ["euler", "dpm2m"])
@pytest.mark.parametrize("grid", [[1.0, 0.0], [1.0, 0.9, 0.35, 0.0], [0.8, 0.5, 0.45, 0.1]])
def test_constant_velocity_is_integrated_exactly(solver, grid):
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigmas = torch.tensor(grid, dtype=torch.float64)
    trajectory = integrate(lambda x, s: v, noise, sigmas, solver, keep=range(len(grid)))
    for step, sigma in enumerate(grid):
        torch.testing.assert_close(trajectory.states[step], noise + (sigma - grid[0]) * v, rtol=0, atol=1e-13)


def test_dpm2m_equals_the_published_form_in_lambda_and_exponentials():
    """x' = (sigma'/sigma) x - alpha' (exp(-h) - 1) D with D from r = h_prev / h, naively in float64."""
    grid = [0.97, 0.8, 0.62, 0.3, 0.11, 0.02]
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def velocity(x, sigma):
        return torch.tanh(x @ weight) * (1 + sigma.view(-1, 1, 1))

    x = noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    previous = None
    for j in range(len(grid) - 1):
        s, t = grid[j], grid[j + 1]
        clean = x - s * velocity(x, torch.full((2,), s, dtype=torch.float64))
        h = math.log((1 - t) / t) - math.log((1 - s) / s)
        data = clean
        if previous is not None:
            r = (math.log((1 - s) / s) - math.log((1 - grid[j - 1]) / grid[j - 1])) / h
            data = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * previous
        x, previous = t / s * x - (1 - t) * (math.exp(-h) - 1) * data, clean
    got = integrate(velocity, noise, torch.tensor(grid, dtype=torch.float64), "dpm2m").final
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "dpm2m"])
def test_one_velocity_call_per_step_with_the_grid_value_for_every_sample(solver):
    seen = []

    def velocity(x, sigma):
        seen.append(sigma.clone())
        return x

    sigmas = torch.tensor([1.0, 0.7, 0.2, 0.0])
    integrate(velocity, torch.randn(5, 2, 2), sigmas, solver)
    assert torch.equal(torch.stack(seen), sigmas[:3, None].expand(3, 5))


def test_states_are_x_at_their_sigma_and_only_those_asked_for():
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([1.0, 0.75, 0.5, 0.0])
    trajectory = integrate(lambda x, s: 0.5 * x, noise, sigmas, "euler", keep={0, 2, 3})
    assert sorted(trajectory.states) == [0, 2, 3]
    assert torch.equal(trajectory.states[0], noise)
    torch.testing.assert_close(trajectory.states[2], noise * 0.875**2)
    assert torch.equal(trajectory.states[3], trajectory.final)
    assert integrate(lambda x, s: x, noise, sigmas, "euler").states == {}


def test_leap_reproduces_the_stored_state_bit_for_bit_also_with_mixed_steps_in_one_batch():
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(4))

    def velocity(x, sigma):
        # Element-wise in the batch, so that the batch size cannot change the numbers.
        return torch.tanh((x[..., None, :] * weight).sum(-1)) + sigma.view(-1, 1, 1)

    noise = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(5))
    sigmas = torch.tensor([1.0, 0.83, 0.41, 0.0])
    states = integrate(velocity, noise, sigmas, "euler", keep=range(4)).states
    for j in range(3):
        assert torch.equal(leap(velocity, states[j], sigmas[j], sigmas[j + 1]), states[j + 1])
        assert torch.equal(leap(velocity, states[j], sigmas[j].item(), sigmas[j + 1].item()), states[j + 1])
    mixed = torch.stack([states[0][0], states[2][1]])
    stepped = leap(velocity, mixed, sigmas[[0, 2]], sigmas[[1, 3]])
    assert torch.equal(stepped, torch.stack([states[1][0], states[3][1]]))


def test_leap_gradient_is_the_step_times_the_velocity_gradient():
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    leap(lambda x, s: theta * x.square(), x, 0.8, 0.5).sum().backward()
    assert theta.grad.item() == pytest.approx(-0.3 * x.square().sum().item(), rel=1e-12)


def test_predicted_clean_and_euler_step_follow_the_straight_line():
    g = torch.Generator().manual_seed(7)
    clean, noise = (torch.randn(2, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.9, 0.25], dtype=torch.float64)
    x = (1 - sigma.view(2, 1, 1)) * clean + sigma.view(2, 1, 1) * noise
    torch.testing.assert_close(predicted_clean(x, noise - clean, sigma), clean, rtol=0, atol=1e-14)
    torch.testing.assert_close(euler_step(x, noise - clean, sigma, 0.0), clean, rtol=0, atol=1e-14)


def test_forward_noised_equals_the_formula_written_as_loops_and_predicted_clean_undoes_it():
    g = torch.Generator().manual_seed(7)
    clean, noise = (torch.randn(3, 2, 4, generator=g, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x = forward_noised(clean, noise, sigma)
    for b, u, c in ((b, u, c) for b in range(3) for u in range(2) for c in range(4)):
        s = sigma[b].item()
        want = (1 - s) * clean[b, u, c].item() + s * noise[b, u, c].item()
        assert x[b, u, c].item() == pytest.approx(want, rel=1e-12)
    assert torch.equal(x[0], clean[0]) and torch.equal(x[2], noise[2])
    torch.testing.assert_close(forward_noised(clean, noise, 0.3)[1], x[1])
    torch.testing.assert_close(predicted_clean(x, noise - clean, sigma), clean, rtol=0, atol=1e-14)


def test_forward_noised_takes_half_precision_to_float32():
    clean, noise = torch.full((1, 1, 1), 100.0, dtype=torch.float16), torch.ones(1, 1, 1, dtype=torch.float16)
    x = forward_noised(clean, noise, 0.001)
    assert x.dtype == torch.float32 and x.item() == pytest.approx(99.901, rel=1e-6)


def test_faults_of_forward_noised_are_sentences():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"noise: expected the shape of x0, \[2, 3, 4\], got \[1, 3, 4\]"):
        forward_noised(x, x[:1], 0.5)
    with pytest.raises(ValueError, match=r"one value per sample, \[2\], got \[3\]"):
        forward_noised(x, x, torch.ones(3))
    for sigma in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"sigma: expected values in \[0, 1\]"):
            forward_noised(x, x, sigma)


def test_euler_step_is_the_step_of_the_diffusers_scheduler():
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=1.7)
    scheduler.set_timesteps(5)
    x = theirs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(8))
    for j, timestep in enumerate(scheduler.timesteps):
        v = torch.sin(x * (j + 1))
        theirs = scheduler.step(v, timestep, theirs).prev_sample
        x = euler_step(x, v, scheduler.sigmas[j], scheduler.sigmas[j + 1])
        assert torch.equal(x, theirs)


def test_gradients_flow_through_a_whole_integration():
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    noise = torch.ones(1, 1, 1, dtype=torch.float64)
    sigmas = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    integrate(lambda x, s: theta * x, noise, sigmas, "euler").final.sum().backward()
    # final = (1 - .4 theta)(1 - .6 theta)
    assert theta.grad.item() == pytest.approx(-1.0 + 2 * 0.24 * 0.4, rel=1e-12)


@pytest.mark.parametrize(
    "grid", [[1.0], [1.0, 0.5, 0.5, 0.0], [0.0, 1.0], [1.2, 0.0], [1.0, -0.1], [1.0, float("nan"), 0.0]]
)
def test_bad_grids_are_refused(grid):
    with pytest.raises(ValueError, match="sigmas: expected"):
        integrate(lambda x, s: x, torch.zeros(1, 1, 1), torch.tensor(grid), "euler")


def test_other_faults_are_sentences():
    x, sigmas = torch.zeros(2, 3, 4), torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="solver: expected one of euler, dpm2m, got 'heun'"):
        integrate(lambda x, s: x, x, sigmas, "heun")
    with pytest.raises(ValueError, match=r"kept steps: expected values in 0\.\.1 .* got \[2\]"):
        integrate(lambda x, s: x, x, sigmas, "euler", keep=[0, 2])
    with pytest.raises(ValueError, match="velocity: expected the shape of its input"):
        integrate(lambda x, s: x[:, :1], x, sigmas, "euler")
    with pytest.raises(ValueError, match=r"one value per sample, \[2\], got \[3\]"):
        euler_step(x, x, torch.ones(3), 0.0)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (1.0, 0.1), (0.9, 0.0), (0.9, 0.1)])
def test_which_steps_are_eulers(start, end):
    sigmas = torch.linspace(start, end, 6, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = []

    def velocity(x, sigma):
        seen.append(x)
        return torch.sin(3 * x) + sigma.reshape(-1, 1, 1)

    states = integrate(velocity, noise, sigmas, "dpm2m", keep=range(6)).states
    for step in range(5):
        euler = states[step] + (sigmas[step + 1] - sigmas[step]) * velocity(states[step], sigmas[step].expand(2))
        same = torch.allclose(euler, states[step + 1], rtol=0, atol=1e-12)
        assert same == takes_euler_step("dpm2m", sigmas, step), step
        assert takes_euler_step("euler", sigmas, step)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-5, 2e-7])
def test_nearly_equal_noise_levels_do_not_magnify_the_rounding_of_velocities(gap):
    """Velocities in bfloat16, as of a real editor, against many Euler steps in float64."""

    def velocity(x, sigma):
        exact = torch.sin(3 * x) + sigma.reshape(-1, 1, 1)
        return exact if x.dtype == torch.float64 else exact.bfloat16()

    noise = torch.linspace(-2, 2, 64).reshape(1, 64, 1)
    fine = integrate(velocity, noise.double(), torch.linspace(0.9, 0.1, 20001, dtype=torch.float64), "euler").final
    grid = [0.9, 0.7, 0.7 - gap, 0.5, 0.3, 0.1]
    plain = integrate(velocity, noise, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]), "dpm2m").final
    error = (integrate(velocity, noise, torch.tensor(grid), "dpm2m").final - fine).abs().max()
    assert error < 3 * (plain - fine).abs().max()


def test_a_step_in_half_precision_does_not_vanish():
    x = torch.full((1, 1, 1), 100.0, dtype=torch.bfloat16)
    v = torch.ones_like(x)
    assert euler_step(x, v, 0.5, 0.4).item() == pytest.approx(99.9, rel=1e-6)
    assert leap(lambda x, sigma: torch.ones_like(x), x, 0.5, 0.4).item() == pytest.approx(99.9, rel=1e-6)


@pytest.mark.parametrize("following", [0.5, 0.6, math.nan])
def test_a_leap_upward_is_refused(following):
    with pytest.raises(ValueError, match="expected sigma_next below sigma_prev"):
        leap(lambda x, sigma: x, torch.ones(2, 1, 1), torch.tensor([0.5, 0.9]), torch.tensor([following, 0.1]))
