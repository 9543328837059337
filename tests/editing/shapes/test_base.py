"""The shipped base: an ordinary pipeline that edits, imperfectly, and in a way that depends on the noise."""

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from actors.rollout import sample
from editing.editors.load import load_editor, resolve_editor
from editing.noise import NoiseRecipe
from editing.shapes.dataset import ShapesDataset
from editing.shapes.score import edit_verdict
from rewards.pixel import background_psnr


@pytest.fixture(scope="module")
def editor():
    torch.set_num_threads(1)
    return load_editor("shapes")


def test_plain_diffusers_loads_it_and_gives_the_picture_of_our_sampler(editor):
    stock = FluxKontextPipeline.from_pretrained(str(resolve_editor("shapes")))
    task = ShapesDataset("validation", 1, 0)[0]
    noise = NoiseRecipe(seed=5, alpha_edit=0.0, alpha_base=0.0, group_size=1).reference(64, 64)
    picture = stock(
        image=Image.fromarray(task.source), prompt=task.instruction, num_inference_steps=4, latents=noise[None],
        height=64, width=64, max_area=64 * 64, _auto_resize=False, max_sequence_length=12, output_type="np").images[0]
    ours = sample(editor, task, seed=5, steps=4, solver="euler")
    assert np.abs(np.rint(picture * 255) - ours).max() <= 1


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
