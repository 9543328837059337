"""The recipe of the base, from nothing to a loadable pipeline, with a handful of steps."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from configs import exits
from editing.editors.load import load_editor
from editing.shapes.edits import edit_at, edit_mask
from editing.shapes.pretrain.__main__ import main
from editing.shapes.pretrain.autoencoder import make_autoencoder
from editing.shapes.pretrain.base import draw_times
from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.images import autoencoder_images, imperfect_target
from editing.shapes.pretrain.making import CONTENTS, make_base
from editing.shapes.pretrain.parallel import share
from editing.shapes.pretrain.recipe import AUTOENCODER_BATCH, BASE_BATCH, Recipe, default_processes
from editing.shapes.scenes import paint, to_uint8


@pytest.mark.fault
def test_one_command_makes_a_base_that_loads(tmp_path):
    out = tmp_path / "base"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "editing.shapes.pretrain",
            "--out",
            str(out),
            "--steps",
            "2",
            "--scenes",
            "2",
            "--processes",
            "2",
            "--autoencoder-steps",
            "2",
            "--autoencoder-images",
            "33",
            "--pairs",
            "101",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "autoencoder 2/2" in run.stdout and "base 2/2" in run.stdout
    editor = load_editor(out)
    assert sum(p.numel() for p in editor.transformer.parameters()) > 10**6
    card = (out / "README.md").read_text()
    assert "--processes 2" in card and "--steps 2" in card
    assert "the first 2 scenes of the validation split" in card and len(re.findall(r"\d ± \d.* \|$", card, re.M)) == 5
    assert sorted(path.name for path in out.iterdir()) == sorted(CONTENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_the_old_base_stays(tmp_path, capfd):
    out = tmp_path / "base"
    autoencoder = make_autoencoder()
    torch.nn.init.constant_(autoencoder.encoder.conv_in.weight, torch.nan)
    autoencoder.save_pretrained(out / "vae")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["--out", str(out), "--processes", "1", "--autoencoder-steps", "0", "--pairs", "4"]) == exits.FAILED
    said = capfd.readouterr().err  # its process's words, too
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("base: expected a finite loss, got nan at step 1")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


RECIPE = {
    "seed": 0,
    "processes": 2,
    "device": "cpu",
    "autoencoder_steps": 1500,
    "autoencoder_images": 6000,
    "steps": 2000,
    "pairs": 8000,
    "scenes": 512,
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"processes": 0}, "--processes: expected 1 to 16, .* got 0; set --processes 1"),
        ({"processes": 17}, "--processes: expected 1 to 16, .* got 17; set --processes 16"),
        ({"processes": 65, "autoencoder_steps": 0}, "--processes: expected 1 to 64"),
        ({"pairs": 1}, "--pairs: expected at least 2, got 1"),
        ({"autoencoder_images": 1}, "--autoencoder-images: expected at least 2"),
        ({"autoencoder_steps": -1}, "--autoencoder-steps: expected at least 0"),
        ({"steps": 0}, "--steps: expected at least 1"),
        ({"scenes": 1}, "--scenes: expected at least 2"),
        ({"seed": -1}, "--seed: expected at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed, says):
    with pytest.raises(RecipeError, match=says):
        Recipe(**{**RECIPE, **changed})


@pytest.mark.parametrize("cores", [None, 1, 2, 3, 16, 64, 192])
def test_the_default_works_on_every_machine(monkeypatch, cores):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    processes = default_processes()
    assert processes == min(cores or 1, 8)
    Recipe(**{**RECIPE, "processes": processes})
    # What a step trains on, added up over the processes, is the recipe's batch.
    for batch in (AUTOENCODER_BATCH, BASE_BATCH):
        assert sum(len(share(batch, processes, rank)) for rank in range(processes)) == batch


def test_there_must_be_an_autoencoder_to_keep(tmp_path):
    with pytest.raises(RecipeError, match="--autoencoder-steps 0: expected an autoencoder to keep"):
        make_base(tmp_path / "base", Recipe(**{**RECIPE, "autoencoder_steps": 0}))
    assert list(tmp_path.iterdir()) == []


def test_imperfect_targets_fail_as_often_as_stated():
    outcomes = {"missed": 0, "right": 0, "wrong": 0}
    clean = 0
    for index in range(400):
        edit = edit_at("train", 0, index)
        image = imperfect_target(np.random.default_rng([0, index]), edit)
        mask = edit_mask(edit)
        source, target = to_uint8(paint(edit.scene)), to_uint8(paint(edit.target_scene))
        if (image[~mask] == source[~mask]).all():  # no colour drift: the outcome can be read off exactly
            clean += 1
            kind = "right" if (image == target).all() else "missed" if (image == source).all() else "wrong"
            outcomes[kind] += 1
    assert clean / 400 == pytest.approx(0.4, abs=0.08)
    assert outcomes["missed"] / clean == pytest.approx(0.15, abs=0.08)
    assert outcomes["wrong"] / clean == pytest.approx(0.12, abs=0.08)


def test_times_lie_in_the_unit_interval_and_start_where_the_sampler_starts():
    times = draw_times(4000, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() <= 1
    assert 0.15 < (times > 0.98).float().mean() < 0.25


def test_autoencoder_images_are_repeatable_and_mixed():
    one, other = autoencoder_images(3, 8), autoencoder_images(3, 8)
    assert (one == other).all() and one.shape == (8, 64, 64, 3) and one.dtype == np.uint8
    assert len({image.tobytes() for image in one}) == 8
