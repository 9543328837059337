"""What given images must prove: that they are those of their task, in order, and encoded by the learner's editor."""

from dataclasses import replace

import numpy as np
import pytest

from learner.update.policy_gate import PolicyGateError
from tests.learner.rig import GIVEN, Rig, made_scores, tiny_config


@pytest.fixture(params=GIVEN)
def rig(request, tiny_kontext, tmp_path):
    rig = Rig(tiny_config(tiny_kontext, algorithm={"type": request.param}), tmp_path)
    rig.publish()
    return rig


def refused(rig, group, sentence):
    with pytest.raises(PolicyGateError, match=sentence):
        rig.learner.consume(group, made_scores(group))
    assert not list(rig.learner.spool.folder.glob("*")), "it is not kept to be refused again"


def test_the_latents_are_those_of_the_editor_bit_by_bit(rig):
    group, task = rig.group(0, 0), rig.tasks.train[0]
    condition = rig.learner.editor.encode(task)
    again = rig.learner.editor.encode_images(group.images, condition)
    assert np.array_equal(group.candidates[0], again.numpy()) and group.predecessors.size == 0
    of_source = rig.learner.editor.encode_images(task.source[None], condition)
    assert np.array_equal(of_source.numpy(), condition.source_latents.numpy())
    assert rig.learner.consume(group, made_scores(group)).accepted


def test_another_grid_is_refused(rig):
    group = rig.group(0, 0)
    refused(rig, replace(group, sigmas=group.sigmas**1.01), "schedulers differ")


def test_other_images_are_refused(rig):
    group = rig.group(0, 0)
    other = group.images.copy()
    other[0, 3, 4, 1] ^= 1
    refused(rig, replace(group, images=other), "other images than task .* or in another order")
    refused(rig, replace(group, images=rig.group(0, 1).images), "other images than task")


def test_images_in_another_order_are_refused(rig):
    group = rig.group(0, 0)
    if group.group_size > 1:
        images, latents = group.images[::-1].copy(), group.candidates[:, ::-1].copy()
        refused(rig, replace(group, images=images, candidates=latents), "another order")
        refused(rig, replace(group, candidates=latents), "latents of its images differ")


@pytest.mark.parametrize("damage", [lambda x: 1.05 * x, np.zeros_like, lambda x: np.roll(x, 1, axis=2)])
def test_latents_of_another_encoder_are_refused(rig, damage):
    group = rig.group(0, 0)
    refused(
        rig, replace(group, candidates=damage(group.candidates)), "latents of its images differ by .* editors differ"
    )
    tiny = replace(group, candidates=group.candidates * np.float32(1 + 1e-3))
    assert rig.learner.consume(tiny, made_scores(tiny)).accepted, "roundings are not refused"


def test_a_rollout_is_not_taken_for_given_images(rig, tiny_kontext, tmp_path):
    from configs.load import config_hash

    rolled = Rig(tiny_config(tiny_kontext), tmp_path / "rolled").group(0, 0)
    rolled = replace(rolled, config_hash=config_hash(rig.config))
    report = rig.learner.consume(rolled, replace(made_scores(rolled)))
    assert not report.accepted and report.refusal == "mismatch" and "anchors" in report.reason
