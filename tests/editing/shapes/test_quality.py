"""The numbers in the model card: what they measure, and that those of the shipped base are true."""

import re
from datetime import date

import numpy as np
import pytest

from editing.editors.load import load_editor, resolve_editor
from editing.shapes.dataset import ShapesDataset
from editing.shapes.pretrain.card import quality_section
from editing.shapes.pretrain.quality import Quality, measure_quality, measured, psnr
from rewards.measure import measured as rewarded
from rewards.pixel import region_psnr

BASE = resolve_editor("shapes")
NAMES = ("reconstruction_psnr", "edit_accuracy", "edit_score", "edit_psnr", "background_psnr")


def test_psnr_is_that_of_the_rewards():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    region = rng.random((9, 7)) < 0.4
    assert psnr(one, other, region) == pytest.approx(float(region_psnr(one[None], other, region)[0]), abs=1e-4)
    assert psnr(one, one, region) == 60


def test_a_scene_is_measured_as_a_run_measures_it(monkeypatch):
    editor, task = load_editor("shapes"), ShapesDataset("validation", 8, 0)[7]
    edited, decode = [], editor.decode

    def remember(latents, condition):
        edited.append(decode(latents, condition))
        return edited[-1]

    monkeypatch.setattr(editor, "decode", remember)
    ours, theirs = measured(editor, task, seed=3), rewarded(task, edited[0][0])
    assert set(ours) == set(NAMES)
    for name in NAMES[1:]:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


def test_the_section_holds_means_errors_and_how_they_were_had():
    means = dict(zip(NAMES, (34.567, 0.6789, 0.5, 21.0, 28.0), strict=True))
    quality = Quality(40, means, dict.fromkeys(NAMES, 0.0123))
    text = quality_section(quality, date(2026, 1, 2))
    assert "Measured on 2026-01-02 on the first 40 scenes of the validation split" in text and "4 Euler steps" in text
    assert "| 34.57 ± 0.01 dB |" in text and "| 0.679 ± 0.012 |" in text


def test_the_shipped_card_says_what_the_shipped_base_does():
    card = (BASE / "README.md").read_text()
    stated = [(float(mean), float(error)) for mean, error in re.findall(r"\| ([\d.]+) ± ([\d.]+)", card)]
    assert len(stated) == len(NAMES) and re.search(r"Measured on \d{4}-\d\d-\d\d on the first [2-9]\d\d scenes", card)
    seen = measure_quality(BASE, 32)
    for name, (mean, error) in zip(NAMES, stated, strict=True):
        assert abs(seen.mean[name] - mean) < 4 * np.hypot(error, seen.error[name])
