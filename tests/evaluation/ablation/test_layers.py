"""The layer diagnostic: AUROC against a rank sum, terciles, per-block measurements of a tiny editor."""

import json

import numpy as np
import pytest
from scipy import stats

from actors.rollout import roll_out
from configs.load import load_config
from editing.data import open_tasks
from editing.editors.policy import open_policy
from editing.trajectory import Lease
from evaluation.ablation import layers
from rewards.result import Score
from tests.evaluation.ablation.untrained import is_plot


def test_auroc_is_the_rank_sum():
    rng = np.random.default_rng(0)
    for ties in (100, 3):
        a, b = rng.integers(0, ties, 7).tolist(), (rng.integers(0, ties, 5) + 1).tolist()
        expected = stats.mannwhitneyu(a, b).statistic / (7 * 5)
        assert layers.auroc(a, b) == pytest.approx(expected)
    assert layers.auroc([3, 2], [2, 1]) == 0.875 and layers.auroc([1.0], [1.0]) == 0.5
    assert layers.auroc([2, 3], [0, 1]) == 1 and layers.auroc([0], [1, 2]) == 0
    with pytest.raises(ValueError, match="on both sides"):
        layers.auroc([], [1.0])


def test_terciles_are_the_best_and_the_worst_third():
    top, bottom = layers.terciles([0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.4])
    assert sorted(top) == [2, 4] and sorted(bottom) == [1, 5]
    assert layers.terciles([0.1, 0.2, 0.3]) == ([2], [0])


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [1.0] * 6, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
def test_terciles_that_cannot_be_told_apart_are_none(scores):
    assert layers.terciles(scores) is None


@pytest.fixture(scope="module")
def flags(tiny_kontext):
    return ["--editor.path", str(tiny_kontext), "--editor.max_text_tokens", "10", "--sampler.group_size", "4"]


def test_observed_groups_are_those_of_a_rollout(flags):
    """Images bit by bit; the mean over the last blocks is the ACD that a rollout reports."""
    config = load_config(["--config", "rdp_acd", *flags, "--rewards.acd_blocks", "3"])
    editor, tasks = open_policy(config.editor, 0), open_tasks(config)
    lease = Lease(0, 0, 5, 0, 7, 0)
    images, acd = layers.observed(editor, tasks.train[5], lease, config)
    group = roll_out(editor, tasks.train[5], lease, config, "hash")
    np.testing.assert_array_equal(images, group.images)
    assert acd.shape == (editor.attention_blocks, 4) and group.acd is not None
    np.testing.assert_allclose(acd[-3:].mean(axis=0), group.acd, rtol=1e-5)
    assert np.ptp(acd, axis=0).min() > 1e-4, "blocks must differ, or their order is not tested"


def test_a_block_that_ranks_as_the_score_does_is_told_from_chance():
    found = layers.layers_of({"1": [0.5, 0.6, 0.4, 0.55, 0.45], "2": [0.9, 0.95, 1.0, 0.9, 0.92]})
    assert [one.informative for one in found] == [False, True]
    assert found[1].corrected == pytest.approx(2 * stats.ttest_1samp([0.9, 0.95, 1.0, 0.9, 0.92], 0.5).pvalue)
    assert "block 2 with an AUROC of 0.934" in layers.in_words(found)
    assert "No block's concentration is told from chance" in layers.in_words(found[:1])
    (one,) = layers.layers_of({"1": [1.0]})
    assert one.corrected is None and not one.informative


def test_auroc_per_block_is_measured_task_by_task(flags, tmp_path, capsys, monkeypatch):
    """Of scores that rank as block 2 does: its AUROC is 1 on every task."""
    acds = []
    real = layers.observed

    def kept(*given):
        images, acd = real(*given)
        acds.append(acd)
        return images, acd

    monkeypatch.setattr(layers, "observed", kept)
    monkeypatch.setattr(layers, "SCORERS", {layers.SCORE: lambda given: [Score(value=float(v)) for v in acds[-1][1]]})
    assert layers.main(["--tasks", "3", "--out", str(tmp_path), *flags]) == 0
    found = json.loads((tmp_path / "layers.json").read_text())
    by_name = {one["name"]: one["auroc"] for one in found["layers"]}
    assert list(by_name) == ["1", "2", "3", "4", "all blocks", "last 2 blocks, as rewarded"]
    assert by_name["2"]["mean"] == 1 and by_name["2"]["count"] == 3 and found["left_out"] == 0
    assert is_plot(tmp_path / "layers.png") and "| 2 | 3 | 1 " in (tmp_path / "layers.md").read_text()
    assert "AUROC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--sampler.group_size", "2", "--algorithm.anchors", "1"), "sampler.group_size of at least 3"),
        (("--tasks", "1"), "--tasks of at least 2"),
        (("--row", "my_images"), "expected data.type shapes, got manifest"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, capsys, more, words):
    assert layers.main(["--out", str(tmp_path), *more]) == 1
    assert words in capsys.readouterr().out.replace("\n", " ") and not (tmp_path / "layers.json").exists()


def test_equal_scores_are_left_out_and_said(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(layers, "SCORERS", {layers.SCORE: lambda given: [Score(value=1.0)] * len(given.images)})
    assert layers.main(["--tasks", "2", "--out", str(tmp_path), *flags]) == 1
    assert "no group of 2 tasks has terciles that differ" in capsys.readouterr().out
