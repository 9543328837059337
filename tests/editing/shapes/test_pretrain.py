"""The recipe of the base, from nothing to a loadable pipeline, with a handful of steps."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from editing.editors.load import load_editor
from editing.shapes.edits import edit_at, edit_mask
from editing.shapes.pretrain.base import draw_times
from editing.shapes.pretrain.pictures import autoencoder_pictures, imperfect_target
from editing.shapes.scenes import paint, to_uint8


def test_one_command_makes_a_base_that_loads(tmp_path):
    out = tmp_path / "base"
    run = subprocess.run(
        [sys.executable, "-m", "editing.shapes.pretrain", "--out", str(out), "--processes", "2",
         "--autoencoder-steps", "2", "--autoencoder-pictures", "32", "--steps", "2", "--pairs", "128"],
        capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "autoencoder 2/2" in run.stdout and "base 2/2" in run.stdout
    editor = load_editor(out)
    assert sum(p.numel() for p in editor.transformer.parameters()) > 10**6
    assert "--steps 2" in (out / "README.md").read_text()


def test_imperfect_targets_fail_as_often_as_stated():
    outcomes = {"missed": 0, "right": 0, "wrong": 0}
    clean = 0
    for index in range(400):
        edit = edit_at("train", 0, index)
        picture = imperfect_target(np.random.default_rng([0, index]), edit)
        mask = edit_mask(edit)
        source, target = to_uint8(paint(edit.scene)), to_uint8(paint(edit.target_scene))
        if (picture[~mask] == source[~mask]).all():  # no colour drift: the outcome can be read off exactly
            clean += 1
            kind = "right" if (picture == target).all() else "missed" if (picture == source).all() else "wrong"
            outcomes[kind] += 1
    assert clean / 400 == pytest.approx(0.4, abs=0.08)
    assert outcomes["missed"] / clean == pytest.approx(0.15, abs=0.08)
    assert outcomes["wrong"] / clean == pytest.approx(0.12, abs=0.08)


def test_times_lie_in_the_unit_interval_and_start_where_the_sampler_starts():
    times = draw_times(4000, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() <= 1
    assert 0.15 < (times > 0.98).float().mean() < 0.25


def test_autoencoder_pictures_are_repeatable_and_mixed():
    one, other = autoencoder_pictures(3, 8), autoencoder_pictures(3, 8)
    assert (one == other).all() and one.shape == (8, 64, 64, 3) and one.dtype == np.uint8
    assert len({picture.tobytes() for picture in one}) == 8
