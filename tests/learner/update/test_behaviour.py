"""The weights beside the trained ones: what is measured and exported may be a running mean; rollouts do without."""

import numpy as np
import pytest

from editing.editors.lora import adapter_arrays
from editing.weights import fingerprint
from learner.state.checkpoint import load_step
from tests.learner.rig import Rig, made_scores, moved, tiny_config, weights_of

EMA = 0.3


def rig(model, folder, **over) -> Rig:
    return Rig(tiny_config(model, **{"learner": {"optimizer": {"ema": EMA}}, **over}), folder)


@pytest.mark.parametrize("kind", ["rc_grpo", "diffusion_nft"])
def test_the_mean_is_that_of_the_trained_weights_by_its_schedule(kind, tiny_kontext, tmp_path):
    """Also where rollouts are under a mean of their own."""
    method = {"type": kind, "trained_steps": [0, 1]} if kind == "rc_grpo" else {"type": kind}
    r = rig(tiny_kontext, tmp_path, algorithm=method)
    transformer = r.learner.editor.transformer
    expected = {name: array.astype("f8") for name, array in adapter_arrays(transformer).items()}
    for step in range(3):
        r.step(step)
        now, decay = adapter_arrays(transformer), min(EMA, (2 + step) / (11 + step))
        assert decay == (EMA if step == 2 else (2 + step) / (11 + step)), "the schedule is seen on both sides"
        expected = {name: decay * array + (1 - decay) * now[name] for name, array in expected.items()}
        measured = r.learner.measured()
        for name, array in measured.arrays.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-8)
        assert measured.version == step + 1 and measured.fingerprint == fingerprint(measured.arrays)
        assert len({measured.fingerprint, r.learner.publish().fingerprint, weights_of(r.learner)}) >= 2
    with r.learner.behaviour.exported(3):
        assert fingerprint(adapter_arrays(transformer)) == measured.fingerprint
    assert weights_of(r.learner) == fingerprint(now)


def test_rollouts_and_updates_are_those_of_a_run_without_a_mean(tiny_kontext, tmp_path):
    with_mean, without = (
        rig(tiny_kontext, tmp_path / "with"),
        rig(tiny_kontext, tmp_path / "without", learner={"optimizer": {"ema": None}}),
    )
    for step in range(2):
        with_mean.step(step), without.step(step)
        assert with_mean.learner.publish().fingerprint == without.learner.publish().fingerprint
    assert without.learner.measured().fingerprint == without.learner.publish().fingerprint


def test_a_step_that_is_skipped_leaves_the_mean_as_it_was(tiny_kontext, tmp_path):
    r = rig(tiny_kontext, tmp_path)
    r.step(0)
    before = r.learner.measured().fingerprint
    r.learner.behaviour.follow(2, applied=False)
    assert r.learner.measured().fingerprint == before
    moved(r)
    r.learner.behaviour.follow(2, applied=True)
    assert r.learner.measured().fingerprint != before


def test_a_mean_that_is_new_with_a_resume_begins_at_the_restored_weights(tiny_kontext, tmp_path):
    one = rig(tiny_kontext, tmp_path / "one", learner={"optimizer": {"ema": None}})
    one.step(0)
    one.learner.save()
    other = rig(tiny_kontext, tmp_path / "other")
    other.learner.restore(load_step(one.learner.checkpoints, 1), allowed=["learner.optimizer.ema"])
    assert other.learner.measured().fingerprint == weights_of(one.learner)


def test_a_staleness_that_is_raised_with_a_resume_finds_the_weights_of_the_restored_version(tiny_kontext, tmp_path):
    one = rig(tiny_kontext, tmp_path / "one")
    one.step(0)
    one.learner.save()
    other = rig(tiny_kontext, tmp_path / "other", cluster={"staleness": 1})
    other.learner.restore(load_step(one.learner.checkpoints, 1))
    other.publish()
    late = [other.group(2, slot) for slot in range(2)]  # by version 1, for the step after next
    other.step(1)
    for group in late:
        report = other.learner.consume(group, made_scores(group))
        assert report.accepted and report.staleness == 1
    assert other.learner.update().metrics["leap_error"] < 1e-5


def test_without_a_mean_what_is_measured_is_the_behaviour_policy(tiny_kontext, tmp_path):
    r = rig(tiny_kontext, tmp_path, learner={}, algorithm={"type": "diffusion_nft"})
    r.step(0)
    assert r.learner.measured().fingerprint == r.learner.publish().fingerprint != weights_of(r.learner)
