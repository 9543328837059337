"""The policy gate on the embedded editor: every way in which a group can be another's is refused, noise is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.rollout import roll_out
from configs.algorithms import RcGrpoConfig
from configs.load import config_hash
from configs.schema import RunConfig
from editing.editors.lora import adapter_arrays, copy_arrays
from editing.noise import NoiseRecipe
from editing.weights import fingerprint
from learner.algorithms.preservation_unit import Balance
from learner.update import policy_gate
from learner.update.learner import LearnerError
from learner.update.policy_gate import CEILING, FLOOR, PolicyGate, PolicyGateError, misplaced
from tests.learner.rig import Rig, made_scores, weights_of

STEPS = 2


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def rig(request, tmp_path_factory):
    """Two steps done; the worker rolls out sample by sample, the learner trains in batches, so roundings differ."""
    config = RunConfig.model_validate(
        {
            "editor": {"dtype": request.param, "device": "cpu"},
            "data": {"type": "shapes", "train_tasks": 40, "held_out_tasks": 1},
            "sampler": {"group_size": 6},
            "rewards": {"weights": {"edit_psnr": 1.0}},
            "learner": {"steps": 40, "groups_per_step": 2, "optimizer": {"warmup_steps": 0}},
        }
    )
    rig = Rig(config, tmp_path_factory.mktemp("run"))
    rig.actor.micro_batch = 1
    for step in range(STEPS):
        rig.before = adapter_arrays(rig.learner.editor.transformer)
        rig.step(step)
    rig.publish()
    return rig


def test_the_same_policy_passes_and_its_roundings_are_seen(rig):
    dtype = rig.config.editor.dtype
    noise = rig.learner.state["leap_noise"]
    assert 0 < noise <= CEILING[dtype] / 5
    consumed(rig, rig.group(STEPS, 0))
    error, tolerance = rig.learner._totals.leap_errors[-1], rig.learner._totals.leap_tolerance
    assert 0 < error <= tolerance == 2 * max(noise, FLOOR[dtype])


def test_weights_one_version_old_are_refused(rig):
    present = adapter_arrays(rig.actor.transformer)
    copy_arrays(rig.actor.transformer, rig.before)
    group = rig.group(STEPS, 1)
    copy_arrays(rig.actor.transformer, present)
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        consumed(rig, group)


def test_another_instruction_or_source_image_is_refused(rig):
    task = rig.tasks.train[rig.group(STEPS, 1).lease.task_index]
    other = next(t for t in rig.tasks.train if t.instruction != task.instruction)
    for condition in ({"instruction": other.instruction}, {"source": other.source}):
        with pytest.raises(PolicyGateError, match="encode the task alike"):
            consumed(rig, made_of(rig, replace(task, **condition)))


def test_another_grid_is_refused_even_if_its_noise_levels_are_claimed(rig):
    group = rig.group(STEPS, 1)
    with pytest.raises(PolicyGateError, match="schedulers differ"):
        consumed(rig, replace(group, sigmas=group.sigmas**1.01))
    with pytest.raises(PolicyGateError, match="schedulers differ"):
        consumed(rig, replace(group, sigmas=group.sigmas * np.float32(1 - 1e-5)))
    sampler = rig.config.sampler
    method = RcGrpoConfig(trained_steps=group.kept_steps)  # which does not ask for the end points, too
    longer = rig.config.model_copy(
        update={"algorithm": method, "sampler": sampler.model_copy(update={"steps": sampler.steps + 1})}
    )
    task = rig.tasks.train[group.lease.task_index]
    other = roll_out(rig.actor, task, group.lease, longer, config_hash(rig.config))
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        consumed(rig, replace(other, sigmas=group.sigmas))


def test_a_grid_that_another_machine_rounds_otherwise_is_the_same(rig):
    group = rig.group(STEPS, 1)
    consumed(rig, replace(group, sigmas=np.nextafter(group.sigmas, 0)))


def test_another_mask_or_seed_is_refused(rig):
    group = rig.group(STEPS, 1)
    task = rig.tasks.train[group.lease.task_index]
    mask = task.edit_mask.copy()
    mask[: mask.shape[0] // 2] ^= True
    other_seed = roll_out(
        rig.actor, task, replace(group.lease, seed=group.lease.seed + 1), rig.config, config_hash(rig.config)
    )
    for other in (made_of(rig, replace(task, edit_mask=mask)), replace(other_seed, lease=group.lease)):
        with pytest.raises(PolicyGateError, match="began from other noise"):
            consumed(rig, other)


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0], "two that are no anchors"])
def test_candidates_in_another_order_are_refused(rig, order):
    group = rig.group(STEPS, 1)
    if isinstance(order, str):
        a, b = [i for i in range(1, 6) if i not in group.anchors][:2]
        order = list(range(6))
        order[a], order[b] = b, a
    with pytest.raises(PolicyGateError, match="follows the noise of candidate"):
        consumed(rig, replace(group, candidates=group.candidates[:, order]))


@pytest.mark.parametrize("normalisation", ["none", "pooled"])
def test_a_group_that_is_refused_changes_nothing_that_is_kept(rig, tmp_path, normalisation):
    config = rig.config.model_copy(
        update={"rewards": rig.config.rewards.model_copy(update={"normalisation": normalisation})}
    )
    fresh = Rig(config, tmp_path, balance=Balance())
    own = adapter_arrays(fresh.actor.transformer)
    group = fresh.group(0, 0)
    copy_arrays(fresh.actor.transformer, {name: array + np.float32(0.05) for name, array in own.items()})
    other = fresh.group(0, 1)
    before = fresh.learner.state
    fresh.learner.consume(group, made_scores(group))
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        fresh.learner.consume(other, made_scores(other))
        fresh.learner.update()
    assert fresh.learner.state["balance"] == before["balance"] == {"surrogate": 0, "background": 0, "groups": 0}
    assert weights_of(fresh.learner) == fingerprint(own)
    with pytest.raises(LearnerError, match="which the policy gate refused"):
        fresh.learner.update()  # the step is not made with what is left of the others


def test_a_group_that_is_refused_adds_nothing_to_the_noise(rig, monkeypatch):
    monkeypatch.setattr(policy_gate, "measured_noise", lambda *_: 1e-7)
    monkeypatch.setattr(policy_gate, "relative_distance", lambda *_: 1.0)
    fresh, group = PolicyGate(rig.config), rig.group(STEPS, 1)
    for version in (0, STEPS):
        with pytest.raises(PolicyGateError):
            fresh.check_policy(
                replace(group, policy_version=version),
                SimpleNamespace(count=1, step_of=lambda row: 0, stored=None, sde=None),
                None,
                None,
            )
    assert fresh.noise is None


def test_the_noise_that_was_measured_goes_with_the_checkpoint(rig, tmp_path):
    assert PolicyGate(rig.config, rig.learner.state["leap_noise"]).noise == rig.learner._gate.noise


def test_an_editor_whose_samples_depend_on_their_batch_is_refused(rig, monkeypatch, tmp_path):
    fresh = Rig(rig.config, tmp_path)
    velocity = type(fresh.learner.editor).velocity
    monkeypatch.setattr(
        type(fresh.learner.editor),
        "velocity",
        lambda self, x, sigma, condition: velocity(self, x, sigma, condition) * (1 + 0.3 / len(x)),
    )
    with pytest.raises(PolicyGateError, match="must not depend on what else is in its batch"):
        consumed(fresh, fresh.group(0, 0))


def test_groups_of_version_0_do_not_widen_the_tolerance_of_the_next(rig, monkeypatch):
    measured = 2 * FLOOR[rig.config.editor.dtype]
    errors = iter([3.9, 3.9, 4.1])
    monkeypatch.setattr(policy_gate, "measured_noise", lambda *_: measured)
    monkeypatch.setattr(policy_gate, "relative_distance", lambda *_: measured * next(errors))
    present, group = PolicyGate(rig.config), replace(rig.group(STEPS, 1), policy_version=0)
    batch = SimpleNamespace(count=1, step_of=lambda row: 0, stored=None, sde=None)
    for _ in range(2):
        assert present.check_policy(group, batch, None, None) == (3.9 * measured, 4 * measured)
    assert present.noise == 2 * measured
    with pytest.raises(PolicyGateError, match="policy version 0 differs"):
        present.check_policy(group, batch, None, None)


def test_no_later_group_is_allowed_more_than_those_of_version_0(rig, monkeypatch):
    measured = 2 * FLOOR[rig.config.editor.dtype]
    errors = iter([1.5, 2.9, 3.1, 3.9, 3.9, 4.1])
    monkeypatch.setattr(policy_gate, "measured_noise", lambda *_: measured)
    monkeypatch.setattr(policy_gate, "relative_distance", lambda *_: measured * next(errors))
    present, batch = PolicyGate(rig.config), SimpleNamespace(count=1, step_of=lambda row: 0, stored=None, sde=None)
    first, later = replace(rig.group(STEPS, 1), policy_version=0), rig.group(STEPS, 1)
    present.check_policy(first, batch, None, None)
    assert present.check_policy(later, batch, None, None) == (2.9 * measured, 3 * measured)
    with pytest.raises(PolicyGateError):
        present.check_policy(later, batch, None, None)
    present.check_policy(first, batch, None, None)
    assert present.check_policy(later, batch, None, None) == (3.9 * measured, 4 * measured)
    with pytest.raises(PolicyGateError):
        present.check_policy(later, batch, None, None)


def test_a_run_that_goes_on_where_roundings_are_larger_is_not_refused(rig, monkeypatch):
    earlier, here = FLOOR[rig.config.editor.dtype], 3 * FLOOR[rig.config.editor.dtype]
    errors = iter([1.9, 2.1])
    monkeypatch.setattr(policy_gate, "measured_noise", lambda *_: here)
    monkeypatch.setattr(policy_gate, "relative_distance", lambda *_: here * next(errors))
    resumed, group = PolicyGate(rig.config, earlier), rig.group(STEPS, 1)
    batch = SimpleNamespace(count=1, step_of=lambda row: 0, stored=None, sde=None)
    assert resumed.check_policy(group, batch, None, None) == (1.9 * here, 2 * here)
    assert resumed.noise == earlier  # a checkpoint has the same bytes wherever the run went on
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        resumed.check_policy(group, batch, None, None)


@pytest.mark.parametrize(("tokens", "channels", "editable"), [(64, 32, 9), (37, 24, 11), (12, 48, 12)])
def test_misplaced_finds_what_was_moved_and_accuses_nobody(tokens, channels, editable):
    rng = torch.Generator().manual_seed(tokens)
    mask = torch.zeros(tokens)
    mask[torch.randperm(tokens, generator=rng)[:editable]] = 1
    noise = NoiseRecipe(tokens, 0.8, 0.05, 7).draw(mask, channels)
    states = 0.4 * noise + 0.3 * torch.tanh(2 * noise) + torch.randn(tokens, channels, generator=rng)
    assert misplaced(states, noise) is None
    order = [0, 1, 4, 3, 2, 5, 6]
    assert misplaced(states[order], noise) in {(2, 4), (4, 2)}
    # States that have forgotten their noise tell nothing, nor do equal ones.
    for _ in range(50):
        assert misplaced(torch.randn(7, tokens, channels, generator=rng), noise) is None
    assert misplaced(states[:1].expand(7, -1, -1), noise) is None
    assert misplaced(states, noise[:1].expand(7, -1, -1)) is None


def made_of(rig, task):
    """The group of the second lease of the step, of another task under its name."""
    group = rig.group(STEPS, 1)
    made = roll_out(rig.actor, task, group.lease, rig.config, config_hash(rig.config))
    return replace(made, task_id=group.task_id)


def consumed(rig, group):
    """Gives the learner a group as the first of a step that is never made."""
    rig.learner._admission._waiting.clear()
    report = rig.learner.consume(group, made_scores(group))
    assert report.accepted, report.reason
