import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.noise import NoiseRecipe, perturb, region_decoupled_noise

strengths = st.floats(0.0, 1.0, allow_nan=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(strengths, strengths, st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**31))
def test_perturb_equals_the_formula_written_as_loops(edit, base, tokens, channels, seed):
    g = generator(seed)
    reference = torch.randn(tokens, channels, generator=g)
    delta = torch.randn(3, tokens, channels, generator=g)
    mask = torch.rand(tokens, generator=g)
    got = perturb(reference, delta, mask, edit, base)
    for i in range(3):
        for u in range(tokens):
            alpha = edit * mask[u].item() + base * (1 - mask[u].item())
            for c in range(channels):
                want = math.sqrt(max(0.0, 1 - alpha**2)) * reference[u, c].item() + alpha * delta[i, u, c].item()
                # sqrt(1 - alpha^2) in float32 loses digits next to alpha = 1, by the square root of its
                # rounding.
                assert got[i, u, c].item() == pytest.approx(want, abs=2e-3 if alpha > 0.999 else 1e-5)


@pytest.mark.parametrize("edit", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("base", [0.0, 0.1, 0.7, 1.0])
def test_no_strength_rounds_above_one(edit, base):
    g = generator(9)
    mask = torch.cat([torch.rand(2000, generator=g), 1 - 1e-6 * torch.rand(2000, generator=g), torch.ones(1)])
    assert perturb(torch.ones(4001, 1), torch.ones(4001, 1), mask, edit, base).isfinite().all()


def test_first_candidate_is_the_reference_and_the_rest_are_not():
    reference = torch.randn(6, 4, generator=generator())
    noise = region_decoupled_noise(reference, torch.ones(6), 5, 0.3, 0.01, generator(1))
    assert noise.shape == (5, 6, 4) and noise.dtype == torch.float32
    assert torch.equal(noise[0], reference)
    assert all(not torch.equal(candidate, reference) for candidate in noise[1:])


def test_zero_strength_outside_the_mask_keeps_the_reference_there_exactly():
    reference = torch.randn(6, 4, generator=generator())
    mask = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool)
    noise = region_decoupled_noise(reference, mask, 4, 0.5, 0.0, generator(1))
    assert torch.equal(noise[:, ~mask], reference[~mask].expand(4, -1, -1))
    assert not torch.isclose(noise[1:, mask], reference[mask].expand(3, -1, -1)).any()


def test_same_generator_seed_same_noise_and_deltas_are_the_generators():
    reference = torch.randn(5, 3, generator=generator())
    mask = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    noise = region_decoupled_noise(reference, mask, 4, 0.6, 0.1, generator(7))
    assert torch.equal(noise, region_decoupled_noise(reference, mask, 4, 0.6, 0.1, generator(7)))
    delta = torch.randn(3, 5, 3, generator=generator(7))
    assert torch.equal(noise[1:], perturb(reference, delta, mask, 0.6, 0.1))


def test_half_precision_reference_is_raised_to_float32():
    reference = torch.randn(4, 2, generator=generator()).bfloat16()
    noise = region_decoupled_noise(reference, torch.ones(4), 2, 0.3, 0.0, generator())
    assert noise.dtype == torch.float32 and torch.equal(noise[0], reference.float())


def test_candidates_stay_standard_normal_and_correlate_by_region():
    tokens, channels = 2048, 16
    mask = (torch.arange(tokens) < tokens // 2).float()
    noise = NoiseRecipe(3, alpha_edit=0.8, alpha_base=0.2, group_size=4).draw(mask, channels)
    half = tokens // 2
    for candidate in noise[1:]:
        for region, alpha in ((slice(0, half), 0.8), (slice(half, None), 0.2)):
            values = candidate[region]
            # 16,384 values: standard errors .008 (mean), .006 (std), .008 (correlation).
            assert values.mean().item() == pytest.approx(0.0, abs=0.04)
            assert values.std().item() == pytest.approx(1.0, abs=0.03)
            correlation = (values * noise[0][region]).mean().item()
            assert correlation == pytest.approx(math.sqrt(1 - alpha**2), abs=0.04)
    assert (noise[1] * noise[2])[:half].mean().item() == pytest.approx(1 - 0.8**2, abs=0.04)


def test_nuisance_variance_falls_with_the_square_of_the_base_strength():
    """Linear toy reward on the background: Var(RDP) / Var(global) = (alpha_base / sigma)^2."""
    tokens, channels, group = 40, 6, 9
    mask = (torch.arange(tokens) < 10).float()
    weight = torch.randn(tokens, channels, generator=generator(5)).double() * (1 - mask.double())[:, None]

    def variance(recipe: NoiseRecipe) -> float:
        noise = recipe.draw(mask, channels).double()
        return (noise[1:] * weight).sum(dim=(1, 2)).var().item()

    wide = variance(NoiseRecipe(11, 0.3, 0.3, group))
    narrow = variance(NoiseRecipe(11, 0.3, 0.01, group))
    assert narrow / wide == pytest.approx((0.01 / 0.3) ** 2, rel=1e-3)


@given(st.integers(0, 2**64 - 1), st.integers(2, 9), st.integers(1, 9), st.integers(1, 5))
def test_recipe_candidate_depends_on_seed_and_index_only(seed, group, tokens, channels):
    mask = torch.linspace(0, 1, tokens)
    recipe = NoiseRecipe(seed, 0.7, 0.05, group)
    noise = recipe.draw(mask, channels)
    assert noise.shape == (group, tokens, channels) and noise.dtype == torch.float32
    assert torch.equal(noise[0], recipe.reference(tokens, channels))
    assert torch.equal(noise, NoiseRecipe(seed, 0.7, 0.05, group + 3).draw(mask, channels)[:group])
    assert torch.equal(recipe.reference(tokens, channels), NoiseRecipe(seed, 0.2, 0.2, 1).draw(mask, channels)[0])


def test_recipe_streams_differ_by_seed_beyond_32_bits_and_by_candidate():
    recipes = [NoiseRecipe(seed, 0.5, 0.5, 3) for seed in (5, 5 + 2**32, 6)]
    mask = torch.ones(4)
    streams = [noise for recipe in recipes for noise in recipe.draw(mask, 4)]
    for i, one in enumerate(streams):
        assert all(not torch.equal(one, other) for other in streams[:i])


def test_recipe_draws_the_same_numbers_everywhere():
    """Written down once: a change here changes what every stored recipe means."""
    reference = NoiseRecipe(2**63 + 12345, 0.5, 0.1, 2).reference(2, 3)
    stored = torch.tensor(STORED_REFERENCE)
    torch.testing.assert_close(reference, stored, rtol=0, atol=1e-6)


STORED_REFERENCE = [[1.7953688, 1.7188852, -1.275672], [0.90499, 0.8087057, -0.7906672]]


def test_global_recipe_ignores_the_mask():
    recipe = NoiseRecipe(4, 0.3, 0.3, 3)
    torch.testing.assert_close(recipe.draw(torch.ones(5), 2), recipe.draw(torch.zeros(5), 2), rtol=0, atol=0)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_degenerate_masks_give_one_strength_everywhere(fill):
    noise = NoiseRecipe(1, 0.9, 0.2, 2).draw(torch.full((3,), fill), 2)
    strength = 0.9 if fill else 0.2
    same = NoiseRecipe(1, strength, strength, 2).draw(torch.full((3,), fill), 2)
    torch.testing.assert_close(noise, same, rtol=0, atol=1e-7)


def test_faults_are_sentences():
    reference = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="alpha_edit: expected a value in"):
        region_decoupled_noise(reference, torch.ones(4), 2, 1.5, 0.0, generator())
    with pytest.raises(ValueError, match="alpha_base: expected a value in"):
        NoiseRecipe(0, 0.5, float("nan"), 2)
    with pytest.raises(ValueError, match=r"shape \[4\], got \[3\]"):
        region_decoupled_noise(reference, torch.ones(3), 2, 0.5, 0.0, generator())
    with pytest.raises(ValueError, match="divided by 255"):
        region_decoupled_noise(reference, torch.full((4,), 255.0), 2, 0.5, 0.0, generator())
    with pytest.raises(ValueError, match=r"edit_mask: expected values in \[0, 1\]"):
        region_decoupled_noise(reference, torch.tensor([0.0, 1.0, float("nan"), 0.0]), 2, 0.5, 0.0, generator())
    with pytest.raises(ValueError, match="expected reference"):
        region_decoupled_noise(torch.zeros(2, 4, 2), torch.ones(4), 2, 0.5, 0.0, generator())
    with pytest.raises(ValueError, match="group_size: expected at least 1"):
        region_decoupled_noise(reference, torch.ones(4), 0, 0.5, 0.0, generator())
    with pytest.raises(ValueError, match="seed: expected an integer"):
        NoiseRecipe(2**64, 0.5, 0.1, 2)


def test_noise_of_whole_numbers_is_refused():
    with pytest.raises(ValueError, match="noise: expected floating point"):
        perturb(torch.ones(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.int64), torch.ones(2), 0.8, 0.05)
