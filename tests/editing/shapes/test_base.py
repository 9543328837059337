"""The shipped base: an ordinary pipeline that edits, imperfectly, and in a way that depends on the noise."""

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline

from actors.rollout import sample
from editing.editors.adapter_file import export_adapter
from editing.editors.load import load_editor, resolve_editor
from editing.editors.lora import attach_lora
from editing.shapes.dataset import ShapesDataset
from editing.shapes.score import edit_verdict
from rewards.pixel import background_psnr
from tests.editing.editors.stock import assert_same_as_stock, give_effect


@pytest.fixture(scope="module")
def editor():
    torch.set_num_threads(1)
    return load_editor("shapes")


def test_plain_diffusers_loads_it_and_gives_the_images_of_our_sampler(editor):
    stock = FluxKontextPipeline.from_pretrained(resolve_editor("shapes"))
    assert_same_as_stock(editor, stock, ShapesDataset("validation", 1, 0)[0])


def test_plain_diffusers_with_an_exported_adapter_gives_the_images_of_our_adapted_sampler(tmp_path):
    editor, task = load_editor("shapes"), ShapesDataset("validation", 1, 0)[0]
    before = sample(editor, task, seed=5, steps=4, solver="euler").astype(int)
    attach_lora(editor.transformer, rank=8, alpha=16, seed=0)
    give_effect(editor.transformer, 0.05)
    after = sample(editor, task, seed=5, steps=4, solver="euler").astype(int)
    assert np.abs(after - before).mean() > 5, "the adapter must matter, or the test proves nothing"
    export_adapter(editor.transformer, tmp_path, {})
    stock = FluxKontextPipeline.from_pretrained(resolve_editor("shapes"))
    stock.load_lora_weights(tmp_path)
    assert_same_as_stock(editor, stock, task)


def test_it_was_trained_to_edit_but_leaves_room(editor):
    tasks = ShapesDataset("validation", 32, 0)
    correct, background = [], []
    for i in range(32):
        image = sample(editor, tasks[i], seed=i, steps=4, solver="euler")[None]
        correct.append(edit_verdict(image, tasks[i].meta["edit"]).correct[0])
        background.append(float(background_psnr(image, tasks[i].source, tasks[i].edit_mask)[0]))
    assert 0.35 < np.mean(correct) < 0.95  # chance is one in thirteen; a perfect base would leave nothing to learn
    assert 23 < np.mean(background) < 33


def test_the_autoencoder_holds_a_scene(editor):
    task = ShapesDataset("validation", 1, 3)[0]
    condition = editor.encode(task)
    assert condition.grid == (8, 8)
    rebuilt = editor.decode(condition.source_latents, condition)
    nothing = np.zeros((64, 64), dtype=bool)
    assert float(background_psnr(rebuilt, task.source, nothing)[0]) > 30
    assert abs(float(condition.source_latents.std()) - 1) < 0.5  # scaled to about unit variance


def test_the_outcome_depends_on_the_noise(editor):
    task = ShapesDataset("validation", 1, 0)[0]
    one, other = (sample(editor, task, seed=seed, steps=4, solver="euler").astype(int) for seed in (0, 1))
    assert np.abs(one - other).max() > 20
