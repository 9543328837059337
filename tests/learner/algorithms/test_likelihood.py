import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from editing.flow import SdeKind, sde_moments, sde_step
from learner.algorithms.likelihood import (
    gaussian_kl,
    guarded_log_ratio,
    region_log_ratio,
    region_objective,
    region_weighting,
    token_log_prob,
)
from learner.algorithms.surrogate import clipped_terms

KINDS: tuple[SdeKind, ...] = ("sde", "cps", "dance")
SAMPLES, TOKENS, CHANNELS = 3, 5, 4


def latents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step(seed: int = 0, dtype: torch.dtype = torch.float64):
    """(x_next, mean, std [B, 1, 1]) of a random step."""
    x, v, noise = (latents(SAMPLES, TOKENS, CHANNELS, seed=seed + k, dtype=dtype) for k in range(3))
    sigma, following = torch.tensor([1.0, 0.8, 0.3]), torch.tensor([0.8, 0.3, 0.0])
    return sde_step(x, v, sigma, following, "sde", 0.7, noise, 0.8)


# Masks nobody would choose: empty, full, one token, soft, overlapping, next to nothing, the same twice.
REGIONS = torch.tensor(
    [
        [1.0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0.1, 0.9, 0.5, 0, 0.25],
        [1e-30, 0, 0, 0, 2e-30],
        [0.9, 0.1, 0.5, 1, 0.75],
        [0, 0, 1, 0, 0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("kind", ["sde", "dance"])
@pytest.mark.parametrize("std", [1e-3, 0.7, 30.0])
def test_log_prob_is_that_of_the_normal_distribution(kind, std):
    x_next, mean = latents(2, 3, 4), latents(2, 3, 4, seed=1)
    got = token_log_prob(x_next, mean, torch.tensor(std, dtype=torch.float64), kind)
    want = stats.norm.logpdf(x_next.numpy(), mean.numpy(), std).mean(axis=-1)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got, torch.from_numpy(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_prob_equals_the_formula_written_as_loops(kind, dtype):
    x_next, mean, std = (part.to(dtype) for part in step())
    got = token_log_prob(x_next, mean, std, kind)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for b in range(SAMPLES):
        s = std[b].item()
        for u in range(TOKENS):
            total = 0.0
            for c in range(CHANNELS):
                square = (x_next[b, u, c].item() - mean[b, u, c].item()) ** 2
                total += -square if kind == "cps" else -square / (2 * s**2) - math.log(s) - math.log(2 * math.pi) / 2
            assert got[b, u].item() == pytest.approx(total / CHANNELS, rel=tolerance, abs=tolerance)


def test_cps_reads_no_std():
    x_next, mean = latents(2, 3, 4), latents(2, 3, 4, seed=1)
    want = token_log_prob(x_next, mean, torch.tensor(1.0), "cps")
    for std in (0.0, math.nan):
        assert torch.equal(token_log_prob(x_next, mean, torch.tensor(std), "cps"), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_are_exactly_one_where_the_logs_are_equal(kind, dtype):
    x_next, mean, std = step(dtype=dtype)
    log = token_log_prob(x_next, mean, std, kind)
    for log_ratio in (log - log.clone(), guarded_log_ratio(log, log.clone(), mean, mean.clone(), std)):
        regional = region_log_ratio(log_ratio, REGIONS)
        assert torch.equal(regional, torch.zeros(SAMPLES, len(REGIONS), dtype=dtype))
        advantages = latents(SAMPLES, len(REGIONS), dtype=dtype)
        found = region_objective(regional, advantages, region_weighting(REGIONS), 1e-5)
        assert found.ratio_deviation == 0 and found.clipped_fraction == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_region_log_ratios_equal_means_written_as_loops(dtype):
    log_ratio = latents(SAMPLES, TOKENS, dtype=dtype)
    got = region_log_ratio(log_ratio, REGIONS)
    assert got.dtype == dtype and got.shape == (SAMPLES, len(REGIONS))
    for b in range(SAMPLES):
        for r, region in enumerate(REGIONS.tolist()):
            count = sum(region)
            want = sum(m * value for m, value in zip(region, log_ratio[b].tolist(), strict=True)) / (count or 1)
            assert got[b, r].item() == pytest.approx(want, rel=1e-6, abs=1e-7)
    # One region of all tokens is Flow-GRPO's mean over the elements.
    torch.testing.assert_close(got[:, 0], log_ratio.mean(dim=1))


def test_region_log_ratio_takes_masks_of_any_dtype():
    log_ratio = latents(SAMPLES, TOKENS)
    mask = torch.tensor([[True, False, False, True, True]])
    for dtype in (torch.bool, torch.int64, torch.float16, torch.float32, torch.float64):
        got = region_log_ratio(log_ratio, mask.to(dtype))
        torch.testing.assert_close(got[:, 0], log_ratio[:, mask[0]].mean(dim=1))
        assert region_weighting(mask.to(dtype)).item() == pytest.approx(0.6)


def test_an_empty_region_has_no_term_and_no_gradient():
    log_ratio = (0.1 * latents(SAMPLES, TOKENS)).requires_grad_()
    regions = torch.stack([torch.zeros(TOKENS), torch.ones(TOKENS)])
    regional = region_log_ratio(log_ratio, regions)
    weights = region_weighting(regions)
    assert torch.equal(regional[:, 0], torch.zeros(SAMPLES, dtype=torch.float64)) and weights.tolist() == [0.0, 1.0]
    found = region_objective(regional, torch.full((SAMPLES, 2), 3.0), weights, 0.5)
    assert torch.equal(found.objective[:, 0], torch.zeros(SAMPLES, dtype=torch.float64))
    found.objective[:, 0].sum().backward()
    assert torch.equal(log_ratio.grad, torch.zeros_like(log_ratio))
    nothing = region_objective(regional[:, :1], torch.ones(SAMPLES, 1), region_weighting(regions[:1]), 0.5)
    assert nothing.objective.sum() == 0 and nothing.clipped_fraction == 0 and nothing.ratio_deviation == 0


def test_region_weights_are_shares_of_the_tokens_or_alike():
    torch.testing.assert_close(
        region_weighting(REGIONS), torch.tensor([1, 0, 0.2, 0.35, 6e-31, 0.65, 0.2], dtype=torch.float64)
    )
    assert region_weighting(REGIONS, "uniform").tolist() == pytest.approx([1 / 6, 0, *[1 / 6] * 5])
    edit = torch.tensor([0.0, 0.3, 1.0, 0.0])
    assert region_weighting(torch.stack([edit, 1 - edit])).sum().item() == pytest.approx(1.0)
    assert region_weighting(torch.zeros(2, 3), "uniform").tolist() == [0.0, 0.0]


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([1e-4, 0.3, (1e-4, 5e-4), (0.2, 0.01)]),
    st.floats(0, 0.5),
    st.integers(0, 999),
)
def test_objective_equals_the_formula_written_as_loops(samples, regions, clip, shift, seed):
    log_ratio, advantages = shift * latents(samples, regions, seed=seed), latents(samples, regions, seed=seed + 1)
    weights = latents(regions, seed=seed + 2).clamp(min=0)
    found = region_objective(log_ratio, advantages, weights, clip)
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    cut, deviation = 0, 0.0
    for i in range(samples):
        for r in range(regions):
            rho, a, w = math.exp(log_ratio[i, r].item()), advantages[i, r].item(), weights[r].item()
            want = w * min(a * rho, a * min(max(rho, 1 - low), 1 + high))
            assert found.objective[i, r].item() == pytest.approx(want, rel=1e-10, abs=1e-12)
            cut += w > 0 and ((a > 0 and rho > 1 + high) or (a < 0 and rho < 1 - low))
            deviation = max(deviation, abs(rho - 1))
    assert found.clipped_fraction.item() == pytest.approx(cut / (samples * regions))
    assert found.ratio_deviation.item() == pytest.approx(deviation, abs=1e-14)


def test_a_pair_of_clips_binds_each_side_by_its_own():
    log_ratio = torch.tensor([0.15, 0.25, -0.05, -0.15], dtype=torch.float64).add(1).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    found = clipped_terms(log_ratio, torch.zeros(4), advantages, (0.1, 0.2))
    found.objective.sum().backward()
    torch.testing.assert_close(found.objective, torch.tensor([1.15, 1.2, -0.95, -0.9], dtype=torch.float64))
    torch.testing.assert_close(log_ratio.grad, torch.tensor([1.15, 0.0, -0.95, 0.0], dtype=torch.float64))
    assert found.clipped_fraction == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guarded", [False, True])
def test_gradient_at_the_old_weights_in_closed_form(kind, guarded):
    """dJ / d mean = (sum_r w_r A_ir M_r(u) / sum M_r) f (x_next - mean) / C with f = 1 / std^2, or 2; guarded f std."""
    x_next, mean, std = step()
    old = mean.clone()
    mean = mean.clone().requires_grad_()
    log_new, log_old = token_log_prob(x_next, mean, std, kind), token_log_prob(x_next, old, std, kind)
    log_ratio = guarded_log_ratio(log_new, log_old, mean, old, std) if guarded else log_new - log_old
    advantages, weights = latents(SAMPLES, len(REGIONS), seed=7), region_weighting(REGIONS, "uniform")
    found = region_objective(region_log_ratio(log_ratio, REGIONS), advantages, weights, 1e-4)
    found.objective.sum().backward()
    counts = REGIONS.sum(dim=1).clamp(min=1e-40)
    per_token = (advantages * weights) @ (REGIONS / counts[:, None])  # [B, N]
    factor = (2.0 if kind == "cps" else 1 / std.square()) * (std if guarded else 1.0)
    want = per_token[..., None] * (x_next - old) * factor / CHANNELS
    torch.testing.assert_close(mean.grad, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_through_the_step_equals_finite_differences(kind):
    """theta -> velocity -> mean -> log-density -> region ratios -> objective, away from theta_old, inside the clip."""
    x, noise = latents(2, 5, 3), latents(2, 5, 3, seed=1)
    advantages, weights = latents(2, len(REGIONS), seed=2), region_weighting(REGIONS)

    def of(theta: torch.Tensor, noise: torch.Tensor = noise):
        return sde_step(x, theta * torch.tanh(x), 0.8, 0.5, kind, 0.7, noise, 0.8)

    x_next, old, std = of(torch.tensor(0.3).double())
    log_old = token_log_prob(x_next, old, std, kind)

    def objective(theta: torch.Tensor) -> torch.Tensor:
        log_new = token_log_prob(x_next, of(theta)[1], std, kind)
        return region_objective(region_log_ratio(log_new - log_old, REGIONS), advantages, weights, 0.9).objective.sum()

    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    objective(theta).backward()
    with torch.no_grad():
        numeric = (objective(theta + 1e-5) - objective(theta - 1e-5)) / 2e-5
    assert abs(numeric.item()) > 1e-3
    assert theta.grad.item() == pytest.approx(numeric.item(), rel=1e-6)


@pytest.mark.parametrize("std", [0.05, 0.7, 3.0])
def test_the_guarded_ratio_is_one_on_average_under_the_old_weights(std):
    """Monte Carlo: mean log-ratio 0, mean ratio exp(mse / (2 D)); the plain log-ratio is -mse / (2 std^2) instead."""
    samples, drift = 20_000, 0.3
    elements = TOKENS * CHANNELS
    old = latents(1, TOKENS, CHANNELS).expand(samples, -1, -1)
    mean = old + drift * latents(1, TOKENS, CHANNELS, seed=1)
    spread = torch.tensor(std, dtype=torch.float64)
    x_next = old + spread * latents(samples, TOKENS, CHANNELS, seed=2)
    log_new, log_old = (token_log_prob(x_next, at, spread, "sde") for at in (mean, old))
    everything = torch.ones(1, TOKENS)
    guarded = region_log_ratio(guarded_log_ratio(log_new, log_old, mean, old, spread), everything)[:, 0]
    plain = region_log_ratio(log_new - log_old, everything)[:, 0]
    mse = (mean - old).square().mean().item()
    # log rho ~ N(0, mse / D): four standard errors of its mean, its variance, and of the ratio's mean.
    error = 4 * math.sqrt(mse / elements / samples)
    assert guarded.mean().item() == pytest.approx(0.0, abs=error)
    assert guarded.var().item() == pytest.approx(mse / elements, rel=4 * math.sqrt(2 / samples))
    assert guarded.exp().mean().item() == pytest.approx(math.exp(mse / (2 * elements)), abs=1.05 * error)
    assert plain.mean().item() == pytest.approx(-mse / (2 * std**2), abs=error / std)


def test_the_guarded_log_ratio_equals_the_formula_written_as_loops():
    x_next, mean, std = step()
    old = mean + 0.2 * latents(*mean.shape, seed=9)
    log_new, log_old = (token_log_prob(x_next, at, std, "sde") for at in (mean, old))
    for scale in (std, std[1, 0, 0]):
        got = guarded_log_ratio(log_new, log_old, mean, old, scale)
        for b in range(SAMPLES):
            s = scale.expand(SAMPLES, 1, 1)[b].item()
            for u in range(TOKENS):
                mse = sum((mean[b, u, c] - old[b, u, c]).item() ** 2 for c in range(CHANNELS)) / CHANNELS
                want = (log_new[b, u] - log_old[b, u]).item() * s + mse / (2 * s)
                assert got[b, u].item() == pytest.approx(want, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_equals_the_formula_written_as_loops(kind):
    x, v, shift = (latents(2, 3, 4, seed=k) for k in range(3))
    sigma, following = torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.4], dtype=torch.float64)
    mean, std = sde_moments(x, v, sigma, following, kind, 0.6, 0.9)
    ref, _ = sde_moments(x, v + shift, sigma, following, kind, 0.6, 0.9)
    got = gaussian_kl(mean, ref, std, kind, sigma, following)
    for b, (t, t_next) in enumerate(((0.9, 0.5), (0.5, 0.4))):
        s = {"sde": 0.6 * math.sqrt(t / (1 - t)), "dance": 0.6, "cps": t_next * math.sin(0.3 * math.pi)}[kind]
        squares = [(mean[b, u, c] - ref[b, u, c]).item() ** 2 for u in range(3) for c in range(4)]
        assert got[b].item() == pytest.approx(sum(squares) / 12 / (2 * s**2), rel=1e-12)
        one = gaussian_kl(mean[b : b + 1], ref[b : b + 1], std[b, 0, 0], kind, t, t_next)
        assert one.item() == pytest.approx(got[b].item(), rel=1e-12)


def test_kl_of_a_unit_step_is_that_of_two_gaussians_per_element():
    """KL(N(m, s) || N(m', s)) = E[log p - log p'] by quadrature, against s with the length of the step in it."""
    mean, ref, std = torch.tensor([[[0.3]]]).double(), torch.tensor([[[-0.5]]]).double(), torch.tensor(0.7).double()
    p, q = stats.norm(0.3, 0.7), stats.norm(-0.5, 0.7)
    exact = p.expect(lambda value: p.logpdf(value) - q.logpdf(value))
    assert gaussian_kl(mean, ref, std, "dance", 1.0, 0.0).item() == pytest.approx(exact, rel=1e-6)
    assert gaussian_kl(mean, ref, std, "dance", 0.5, 0.25).item() == pytest.approx(exact / 4, rel=1e-6)


def test_kl_and_its_gradient_vanish_at_the_reference():
    _, mean, std = step()
    mean.requires_grad_()
    kl = gaussian_kl(mean, mean.detach().clone(), std, "sde", 0.5, 0.4)
    kl.sum().backward()
    assert torch.equal(kl, torch.zeros(SAMPLES, dtype=torch.float64))
    assert torch.equal(mean.grad, torch.zeros_like(mean))


def test_only_the_current_mean_gets_a_gradient():
    x_next, mean, std = step()
    inputs = [part.clone().requires_grad_() for part in (x_next, mean, mean, std)]
    x_next, mean, old, std = inputs
    advantages, weights = latents(SAMPLES, 2).requires_grad_(), torch.ones(2).requires_grad_()
    log_new, log_old = token_log_prob(x_next, mean, std, "sde"), token_log_prob(x_next, old.detach(), std, "sde")
    ratios = region_log_ratio(guarded_log_ratio(log_new, log_old, mean, old, std), torch.ones(2, TOKENS))
    kl = gaussian_kl(mean, old, std, "sde", 0.5, 0.4)
    (region_objective(ratios, advantages, weights, 0.1).objective.sum() + kl.sum()).backward()
    assert mean.grad is not None and mean.grad.abs().max() > 0
    assert x_next.grad is None and old.grad is None and std.grad is None
    assert advantages.grad is None and weights.grad is None


def test_a_region_without_weight_or_advantage_cannot_make_the_objective_nan():
    log_ratio = torch.tensor([[900.0, 0.0, 900.0]], dtype=torch.float64, requires_grad=True)
    found = region_objective(log_ratio, torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([1.0, 1.0, 0.0]), 1e-3)
    found.objective.sum().backward()
    assert found.objective.tolist() == [[0.0, 1.0, 0.0]] and log_ratio.grad.tolist() == [[0.0, 1.0, 0.0]]
    assert found.ratio_deviation == torch.inf  # and the gate still sees it


def test_faults_are_sentences():
    x_next, mean, std = step()
    log = token_log_prob(x_next, mean, std, "sde")
    with pytest.raises(ValueError, match="kind: expected one of sde, cps, dance, got 'ode'"):
        token_log_prob(x_next, mean, std, "ode")
    with pytest.raises(ValueError, match="kind: expected one of sde, cps, dance, got 'ode'"):
        gaussian_kl(mean, mean, std, "ode", 0.5, 0.4)
    for bad in (x_next[0], x_next[:, :2]):
        with pytest.raises(ValueError, match=r"x_next and mean must be \[B, N, C\] alike, got \["):
            token_log_prob(bad, mean, std, "sde")
    with pytest.raises(ValueError, match=r"mean and mean_ref must be \[B, N, C\] alike"):
        gaussian_kl(mean, mean[:1], std, "sde", 0.5, 0.4)
    with pytest.raises(ValueError, match=r"std: expected a 0-dim tensor or \[3, 1, 1\], got \[3\]"):
        token_log_prob(x_next, mean, std.flatten(), "sde")
    for bad in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="a step without noise has no density"):
            token_log_prob(x_next, mean, torch.tensor(bad), "dance")
    with pytest.raises(
        ValueError, match=r"log_new and log_old must be \[B, N\], \[3, 5\] here, got \[3, 5\] and \[3\]"
    ):
        guarded_log_ratio(log, log[:, 0], mean, mean, std)
    with pytest.raises(ValueError, match=r"log_ratio must be \[B, N\], got \[5\]"):
        region_log_ratio(log[0], REGIONS)
    for bad in (REGIONS[0], REGIONS[:0], REGIONS[:, :4]):
        with pytest.raises(ValueError, match=r"regions: expected at least one row of 5 token\(s\)"):
            region_log_ratio(log, bad)
    for bad in (-REGIONS, 255 * REGIONS, REGIONS * math.nan):
        with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\]"):
            region_log_ratio(log, bad)
    with pytest.raises(ValueError, match="weighting must be one of area, uniform, got 'size'"):
        region_weighting(REGIONS, "size")
    ratios, weights = torch.zeros(3, 2), torch.ones(2)
    for advantages, shares in ((torch.zeros(3), weights), (ratios, torch.ones(3)), (ratios.T, weights)):
        with pytest.raises(ValueError, match=r"must be \[B, R\] and weights \[R\]"):
            region_objective(ratios, advantages, shares, 0.1)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weights of regions must be finite and at least 0"):
            region_objective(ratios, ratios, torch.tensor([1.0, bad]), 0.1)
    for clip in (0.0, 1.0, math.nan, (0.1, 0.0), (1.5, 0.1)):
        with pytest.raises(ValueError, match=r"clip must be in \(0, 1\)"):
            region_objective(ratios, ratios, weights, clip)
    for sigma, following in ((0.4, 0.4), (0.4, 0.5), (torch.ones(2), 0.5), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="noise levels: expected numbers"):
            gaussian_kl(mean, mean, std, "sde", sigma, following)
