"""The spread of groups and the variance law, against loops and closed forms; a tiny real measurement."""

import json
import math

import numpy as np
import pytest
import torch

from configs.load import load_config
from evaluation.ablation import noise
from evaluation.ablation.variance import (
    background_drift,
    background_spread,
    contains,
    exponentiated,
    predicted_ratio,
    toy_ratio,
)
from evaluation.statistics import Interval
from rewards.result import GroupScores, Score
from tests.evaluation.ablation.untrained import is_plot


def masks(count, tokens=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(tokens, generator=generator) < 0.3).float() for _ in range(count)]


@pytest.mark.parametrize(("alpha_base", "sigma"), [(0.05, 0.8), (0.01, 0.3), (0.3, 0.3)])
def test_the_variance_law_holds_on_a_linear_toy_reward(alpha_base, sigma):
    found = toy_ratio(masks(200), 8, 12, alpha_base, sigma, seed=3)
    assert predicted_ratio(alpha_base, sigma) == pytest.approx((alpha_base / sigma) ** 2)
    assert found.count == 200 and contains(found, predicted_ratio(alpha_base, sigma))
    # The interval is narrow enough to tell it from a law with another power, or from one and a half times as much.
    if alpha_base < sigma:
        assert not contains(found, alpha_base / sigma) and not contains(found, (alpha_base / sigma) ** 3)
    assert not contains(found, 1.5 * predicted_ratio(alpha_base, sigma))


def test_noise_of_the_two_rows_is_independent():
    """The same noise for both would give the ratio exactly, and an interval without width."""
    found = toy_ratio(masks(20), 8, 4, 0.05, 0.8, seed=0)
    assert found.high / found.low > 1.1


def test_soft_and_empty_masks_have_a_background():
    soft = [torch.full((16,), 0.5), torch.zeros(16), torch.tensor([1.0] * 15 + [0.0])] * 30
    # Where the mask is soft the strength lies between; an empty mask is all background.
    assert toy_ratio(soft[1::3] + soft[2::3], 4, 12, 0.1, 0.5, seed=1).count == 60
    assert contains(toy_ratio(soft[1::3] + soft[2::3], 4, 12, 0.1, 0.5, seed=1), 0.04)


def test_drift_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    edit_mask = rng.random((5, 6)) < 0.4
    total, count = 0.0, 0
    for candidate in range(1, 4):
        for row in range(5):
            for column in range(6):
                if not edit_mask[row, column]:
                    for channel in range(3):
                        total += abs(
                            int(images[candidate, row, column, channel]) - int(images[0, row, column, channel])
                        )
                        count += 1
    assert background_drift(images, edit_mask) == pytest.approx(total / count / 255)
    assert background_drift(np.repeat(images[:1], 3, axis=0), edit_mask) == 0
    changed = images[:1].repeat(2, axis=0)
    changed[1, edit_mask] += 1  # inside the mask
    assert background_drift(changed, edit_mask) == 0


def test_spread_is_the_mean_variance_of_random_linear_rewards():
    rng = np.random.default_rng(1)
    final = rng.normal(size=(6, 7, 3)).astype(np.float32)
    edit_mask = np.array([1, 0, 0.5, 0, 1, 0, 0], dtype=np.float32)
    weights = 1 - edit_mask.astype(np.float64)
    expected = sum(
        weights[token] * np.var([float(final[i, token, c]) for i in range(1, 6)], ddof=1)
        for token in range(7)
        for c in range(3)
    ) / (3 * weights.sum())
    assert background_spread(final, edit_mask) == pytest.approx(expected)
    hard = np.array([1, 0, 0, 0, 1, 0, 0], dtype=np.float32)
    directions = rng.normal(size=(20000, 7, 3)) * (1 - hard)[:, None]
    values = np.einsum("dnc,inc->di", directions, final[1:].astype(np.float64))
    assert background_spread(final, hard) == pytest.approx(values.var(axis=1, ddof=1).mean() / (5 * 3), rel=0.05)


def test_the_reward_is_split_into_its_part_for_the_edit_and_the_rest():
    config = load_config(["--config", "rdp"]).rewards
    values = {
        "edit_score": (0.2, 0.5, None),
        "edit_psnr": (20.0, 22.0, 21.0),
        "background_psnr": (30.0, 27.0, 28.0),
    }
    scores = GroupScores(
        "g",
        0,
        {
            name: tuple(Score(value=v) if v is not None else Score(error="no") for v in given)
            for name, given in values.items()
        },
        0.0,
    )
    edit = [0.2 + 0.05 * 20, 0.5 + 0.05 * 22]
    rest = [0.1 * 30, 0.1 * 27]
    whole = [a + b for a, b in zip(edit, rest, strict=True)]
    expected = [abs(part[0] - part[1]) / 2 for part in (whole, edit, rest)]
    assert noise.reward_spreads(scores, config) == pytest.approx(tuple(expected))


def test_ratios_are_geometric_means_over_the_tasks_that_have_both():
    def group(value):
        return noise.GroupSpread(value, 1.0, 1.0, 0.0, value)

    found = {"global": [group(1.0), group(2.0), group(0.0)], "rdp": [group(0.5), group(0.25), group(1.0)]}
    ratios = noise.ratios_of(found)
    assert ratios["drift"].mean == pytest.approx(0.25) and ratios["drift"].count == 2
    assert "rest_std" not in ratios and ratios["reward_std"].mean == 1
    low, high = ratios["drift"].low, ratios["drift"].high
    assert math.sqrt(low * high) == pytest.approx(0.25)
    assert exponentiated(Interval(0.0, None, None, 1)) == Interval(1.0, None, None, 1)
    assert not contains(Interval(1.0, None, None, 1), 1.0)


def test_a_measurement_on_a_tiny_editor(tiny_kontext, tmp_path, capsys):
    flags = ["--editor.path", str(tiny_kontext), "--editor.max_text_tokens", "10", "--sampler.group_size", "4"]
    assert noise.main(["--tasks", "3", "--out", str(tmp_path), *flags]) == 0
    found = json.loads((tmp_path / "noise.json").read_text())
    assert {row: len(groups) for row, groups in found["groups"].items()} == {"global": 3, "rdp": 3}
    assert found["variance_law"]["predicted"] == pytest.approx(1 / 256) and found["variance_law"]["toy"]["count"] == 3
    for one, other in zip(found["groups"]["global"], found["groups"]["rdp"], strict=True):
        assert 0 < other["drift"] < one["drift"] and 0 < other["spread"] < one["spread"]
    assert found["ratios"]["drift"]["mean"] < 1
    text = (tmp_path / "noise.md").read_text()
    assert "background drift" in text and "= (0.05 / 0.8)² = 0.00391" in text and is_plot(tmp_path / "noise.png")
    assert "the interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tasks", "1"), "--tasks: expected at least 2"),
        (("--sampler.group_size", "2", "--algorithm.anchors", "1"), "expected sampler.group_size of at least 3"),
        (("--algorithm.trained_steps", "[0, 1]"), "set algorithm.trained_steps"),
        (("--algorithm.type", "flow_grpo"), "set algorithm.trained_steps"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, capsys, flags, words):
    assert noise.main(["--out", str(tmp_path), *flags]) == 1
    assert words in capsys.readouterr().out.replace("\n", " ") and not (tmp_path / "noise.json").exists()
