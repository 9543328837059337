"""A rollout is what the method says, computed again by loops, and the same bits every time."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from actors.rollout import roll_out, sample, show
from configs.schema import RunConfig
from editing.editors.base import Editor
from editing.editors.load import load_editor
from editing.editors.lora import adapter_parameters, attach_lora
from editing.noise import NoiseRecipe
from editing.task import NOT_FINITE, EditTask
from editing.trajectory import Lease, MessageError

LEASE = Lease(step=3, slot=1, task_index=7, attempt=0, seed=123456789, policy_version=3)


def config(weights: Mapping[str, float] | None = None, solver: str = "euler", **algorithm) -> RunConfig:
    return RunConfig.model_validate(
        {
            "sampler": {"group_size": 5, "steps": 4, "solver": solver},
            "algorithm": {"alpha_edit": 0.8, "alpha_base": 0.05, "trained_steps": [1, 3], **algorithm},
            "rewards": {"weights": weights or {"background_psnr": 1.0}, "acd_blocks": 3},
        }
    )


@pytest.fixture(scope="module")
def editor(tiny_kontext) -> Editor:
    editor = load_editor(tiny_kontext)
    attach_lora(editor.transformer, rank=2, alpha=4.0, seed=0)
    with torch.no_grad():  # B is zero in a fresh adapter: move it, so that the adapter counts
        for index, parameter in enumerate(adapter_parameters(editor.transformer).values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return editor


@pytest.fixture(scope="module")
def task() -> EditTask:
    generator = np.random.default_rng(0)
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:16, 8:24] = True
    return EditTask("t", generator.integers(0, 256, (24, 32, 3), dtype=np.uint8), mask, "add a red circle")


def test_states_are_those_of_an_euler_loop_over_the_velocity(editor, task):
    group = roll_out(editor, task, LEASE, config(), "hash")
    condition = editor.encode(task)
    mask = editor.token_mask(task.edit_mask, condition)
    sigmas = editor.sigmas(4, condition)
    x = NoiseRecipe(LEASE.seed, 0.8, 0.05, 5).draw(mask, condition.source_latents.shape[-1])
    states = [x.numpy()]
    with torch.no_grad():
        for step in range(4):
            v = editor.velocity(x, sigmas[step].repeat(5), condition)
            x = x + (sigmas[step + 1] - sigmas[step]) * v
            states.append(x.numpy())
    assert group.candidates.shape == (2, 5, condition.tokens, 16)
    for place, step in enumerate((1, 3)):
        np.testing.assert_array_equal(group.candidates[place], states[step + 1])
        np.testing.assert_array_equal(group.predecessors[place], states[step][group.anchors])
    np.testing.assert_array_equal(group.images, editor.decode(x, condition))
    np.testing.assert_array_equal(group.sigmas, sigmas.numpy())
    assert (group.lease, group.policy_version, group.task_id, group.config_hash) == (LEASE, 3, "t", "hash")
    assert group.kept_steps == (1, 3) and group.acd is None and group.candidates.dtype == np.float32


def test_only_the_reference_is_unperturbed_and_the_images_differ(editor, task):
    group = roll_out(editor, task, LEASE, config(trained_steps=[0]), "hash")
    starts = group.predecessors[0]
    mask = editor.token_mask(task.edit_mask, editor.encode(task)).numpy().astype(bool)
    spread = (starts[1:] - starts[:1]).std(axis=(0, 2))
    assert spread[mask].min() > 3 * spread[~mask].max()
    assert len({image.tobytes() for image in group.images}) == 5


@pytest.mark.parametrize("solver", ["euler", "dpm2m"])
def test_a_lease_means_the_same_bits_whatever_came_before(editor, task, solver):
    settings = config({"acd": 1.0}, solver=solver)
    first = roll_out(editor, task, LEASE, settings, "hash")
    other = roll_out(editor, task, Lease(3, 2, 7, 1, 5, 3), settings, "hash")
    torch.manual_seed(99)
    again = roll_out(editor, task, LEASE, settings, "hash")
    for name in ("candidates", "predecessors", "images", "acd", "anchors"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.candidates, other.candidates)


def test_acd_is_the_mean_over_all_steps_and_changes_no_state(editor, task):
    with_acd = roll_out(editor, task, LEASE, config({"acd": 1.0}), "hash")
    without = roll_out(editor, task, LEASE, config(), "hash")
    np.testing.assert_array_equal(with_acd.candidates, without.candidates)
    condition = editor.encode(task)
    mask = editor.token_mask(task.edit_mask, condition)
    sigmas = editor.sigmas(4, condition)
    x = NoiseRecipe(LEASE.seed, 0.8, 0.05, 5).draw(mask, 16)
    per_step = []
    with torch.no_grad():
        for step in range(4):
            with editor.attention_probe(mask, 3) as probe:
                v = editor.velocity(x, sigmas[step].repeat(5), condition)
                per_step.append(probe.take())
            x = x + (sigmas[step + 1] - sigmas[step]) * v
    torch.testing.assert_close(torch.from_numpy(with_acd.acd), torch.stack(per_step).mean(dim=0))
    assert with_acd.acd.std() > 0


def test_a_sample_is_the_reference_of_a_rollout_with_that_seed(editor, task):
    group = roll_out(editor, task, LEASE, config(), "hash")
    alone = sample(editor, task, LEASE.seed, 4, "euler")
    assert alone.shape == (24, 32, 3) and alone.dtype == np.uint8
    # The same noise, in a batch of one: equal up to the rounding of other kernels.
    assert np.abs(alone.astype(int) - group.images[0].astype(int)).max() <= 1
    assert not np.array_equal(alone, sample(editor, task, LEASE.seed + 1, 4, "euler"))


@pytest.mark.parametrize(("part", "what"), [("transformer", "latents"), ("vae", "decoded pixels")])
def test_what_is_not_finite_is_no_image(tiny_kontext, task, part, what):
    broken = load_editor(tiny_kontext)
    with torch.no_grad():
        next((broken.transformer if part == "transformer" else broken.pipeline.vae.decoder).parameters()).fill_(np.nan)
    for edit in (lambda: sample(broken, task, 1, 4, "euler"), lambda: show(broken, task, 5, 1, 4, "euler", 3)):
        with pytest.raises(MessageError, match=f"^task t: its {what} {NOT_FINITE}$"):
            edit()
    with pytest.raises(MessageError, match=f"^group 000003.001.0: its {what} {NOT_FINITE}, under policy version 3$"):
        roll_out(broken, task, LEASE, config(), "hash")


def test_one_candidate_that_ends_in_nan_after_the_trained_steps_loses_the_group(tiny_kontext, task, monkeypatch):
    broken = load_editor(tiny_kontext)
    whole, last = broken.velocity, broken.sigmas(4, broken.encode(task))[3]

    def velocity(latents, sigma, condition):
        found = whole(latents, sigma, condition)
        found[4, 0, 0] = torch.where(sigma[0] <= last, float("inf"), found[4, 0, 0])
        return found

    monkeypatch.setattr(broken, "velocity", velocity)
    with pytest.raises(MessageError, match=f"its latents {NOT_FINITE}"):
        roll_out(broken, task, LEASE, config(trained_steps=[1]), "hash")


def test_show_gives_the_sample_and_where_the_text_looked(editor, task):
    shown = show(editor, task, 5, LEASE.seed, 4, "euler", 3)
    np.testing.assert_array_equal(shown.image, sample(editor, task, LEASE.seed, 4, "euler"))
    assert shown.attention.shape == (3, 4) and shown.attention.sum() == pytest.approx(1, abs=1e-5)
    assert shown.attention.std() > 0 and (shown.index, shown.task_id) == (5, "t")


def test_the_learner_may_take_gradients_on_an_editor_that_rolled_out(tiny_kontext, task):
    editor = load_editor(tiny_kontext)
    attach_lora(editor.transformer, rank=2, alpha=4.0, seed=0)
    group = roll_out(editor, task, LEASE, config(), "hash")  # caches condition and position ids
    condition = editor.encode(task)
    v = editor.velocity(torch.from_numpy(group.predecessors[0]), torch.full((2,), 0.5), condition)
    v.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter_parameters(editor.transformer).values())
