"""Every method through the whole system: rollout, rewards, policy gate, updates, spool, checkpoint and resume."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from configs.algorithms import AlgorithmConfig, CustomConfig
from configs.errors import ConfigError
from configs.load import load_config
from configs.run_files import EVENTS
from configs.schema import RunConfig
from editing.editors.lora import adapter_arrays
from editing.rollout_spec import rollout_spec
from editing.trajectory import Lease
from learner.algorithms.base import Velocities
from learner.algorithms.registry import METHODS, open_algorithm
from learner.algorithms.surrogate import region_weights
from learner.audit import audited
from learner.run import run
from learner.state.checkpoint import load_step
from learner.update.credit import credited_scores
from learner.update.held_group import hold, tensors_of
from learner.update.policy_gate import PolicyGateError
from tests.learner.rig import GIVEN, Rig, made_scores, moved, tiny_config, weights_of
from tests.learner.tiny_run import tiny_run

TYPES = tuple(name for name in METHODS if name != "custom")
ROLLED_OUT = tuple(name for name in TYPES if name not in GIVEN)
GUIDE = Path(__file__).parents[2] / "docs" / "methods.md"
SMALL = {
    "flow_grpo": {"window_size": 2},
    "mix_grpo": {"window_every": 1},
    **{name: {"trained_steps": [0, 1]} for name in ("rc_grpo", "neighbor_grpo", "edit_grpo", "locus")},
}


def config(model: Path, kind: str, **over):
    return tiny_config(model, **over, algorithm={"type": kind, **SMALL.get(kind, {})})


def test_every_configured_type_has_a_method():
    (union, _) = get_args(AlgorithmConfig)
    assert {one.model_fields["type"].default for one in get_args(union)} == set(METHODS)


@pytest.mark.parametrize("kind", TYPES)
def test_a_method_trains_and_its_rollouts_pass_the_policy_gate(kind, tiny_kontext, tmp_path):
    r = Rig(config(tiny_kontext, kind), tmp_path)
    before = weights_of(r.learner)
    for step in range(3):
        metrics = r.step(step).metrics
        assert metrics["ratio_deviation"] == 0, "the policy that is trained is the one that made the group"
        assert metrics["surrogate_gradient"] > 0 == metrics["zero_variance_groups"]
        assert "leap_error" not in metrics if kind in GIVEN else metrics["leap_error"] < 1e-5
    assert weights_of(r.learner) != before


@pytest.mark.parametrize("kind", ROLLED_OUT)
def test_the_gate_refuses_a_group_of_other_weights(kind, tiny_kontext, tmp_path):
    r = Rig(config(tiny_kontext, kind, learner={"groups_per_step": 1}), tmp_path)
    r.step(0)
    r.publish()
    moved(r)
    if r.config.algorithm.rolls_out_mean:  # what made the group is kept apart from what is trained
        r.learner.behaviour._arrays = {1: adapter_arrays(r.learner.editor.transformer)}
    group = r.group(1, 0)
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        r.learner.consume(group, made_scores(group))
        r.learner.update()


@pytest.fixture(scope="module")
def another_shape(tmp_path_factory):
    """Patches of 16 pixels, six latent channels, three heads of eight, guidance, and one double and three single
    blocks."""
    from tests.tiny_kontext import make_tiny_kontext

    shape = {"double": 1, "single": 3, "heads": 3, "head_dim": 8, "axes": (2, 2, 4), "latent_channels": 6}
    return make_tiny_kontext(
        tmp_path_factory.mktemp("another_shape"), **shape, vae_factor=8, guidance_embeds=True, text_len=7, seed=3
    )


@pytest.mark.parametrize("kind", TYPES)
def test_a_method_trains_an_editor_of_another_shape(kind, another_shape, tmp_path):
    over = {"editor": {"max_text_tokens": 7, "micro_batch": 3}, "token_masks": {"distance": "soft"}}
    r = Rig(config(another_shape, kind, **over), tmp_path)
    group = r.learner.editor.sigmas(3, r.learner.editor.encode(r.tasks.train[0]))
    assert len(group) == 4
    seen = {weights_of(r.learner)}
    for step in range(3):
        metrics = r.step(step).metrics
        assert metrics["ratio_deviation"] == 0 < metrics["surrogate_gradient"]
        assert kind in GIVEN or metrics["leap_error"] < 1e-5
        seen.add(weights_of(r.learner))
    assert len(seen) == 4, "every step moves the weights"
    latents = r.group(3, 0).candidates
    assert latents.shape[2:] == (16, 24)  # 64 pixels in patches of 16, and 2 x 2 latents of six channels


WITH_STATE = {"background_weight": 0.3, "background_target": 30.0, "background_rate": 0.3}
"""Of a run that has all there is to be saved: a running mean besides, and a weight that follows a target."""


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_restored_learner_makes_the_same_steps(kind, staleness, tiny_kontext, tmp_path):
    whole = config(
        tiny_kontext, kind, cluster={"staleness": staleness}, learner={"optimizer": {"ema": 0.5}}
    ).model_dump()
    whole["algorithm"]["preservation"] |= WITH_STATE
    if kind in GIVEN:  # a target for the background is refused there
        whole["algorithm"]["preservation"]["background_target"] = None
    one, other = (Rig(RunConfig.model_validate(whole), tmp_path / name) for name in ("one", "other"))
    for step in range(2):
        one.step(step)
    one.learner.save()
    other.learner.restore(load_step(one.learner.checkpoints, 2))
    assert one.learner.state == other.learner.state
    for r in (one, other):
        r.step(2)
    assert weights_of(one.learner) == weights_of(other.learner)
    assert one.learner.publish().fingerprint == other.learner.publish().fingerprint
    assert one.learner.measured().fingerprint == other.learner.measured().fingerprint != weights_of(one.learner)
    assert one.learner.state == other.learner.state
    assert kind in GIVEN or one.learner.state["constraint"]["weight"] != 0.3


def test_a_soft_distance_mask_reaches_the_metric(tiny_kontext, tmp_path):
    """A token that the mask covers in part counts in both regions, by how much; a hard one in either."""
    found = {}
    for kind in ("any", "soft"):
        r = Rig(config(tiny_kontext, "rc_grpo", token_masks={"distance": kind}), tmp_path / kind)
        r.publish()
        group = r.group(0, 0)
        held = hold(r.learner.editor, r.config, r.tasks.train[group.lease.task_index], group, 0)
        (credit,) = credited_scores([made_scores(group)], r.config.rewards, r.config.algorithm)
        tensors = tensors_of(held, credit, r.config)
        found[kind] = (tensors.edit_mask, r.step(0).metrics["surrogate_gradient"])
        # The first gradient with respect to a velocity is -dt W sum_i A_i x_i, W of this mask.
        method = open_algorithm(r.config.algorithm)
        queries = method.queries(tensors)
        v = torch.zeros_like(queries.x).requires_grad_()
        velocities = Velocities(slice(0, queries.count), v, None, torch.zeros)
        (gradient,) = torch.autograd.grad(method.terms(queries, velocities)["surrogate"].value, v)
        pulled = torch.einsum("v,kvnc->knc", queries.advantages, queries.candidates)
        weights = region_weights(tensors.edit_mask, v.shape[-1])
        dt = (queries.sigma_next - queries.sigma)[:, None, None]
        expected = -dt * weights[:, None] * pulled.repeat_interleave(2, dim=0) / queries.count
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-7)
    (hard, one), (soft, other) = found["any"], found["soft"]
    assert set(hard.tolist()) <= {0.0, 1.0} and ((soft > 0) & (soft < 1)).any()
    assert one != other


def test_the_mean_follows_the_weights_as_released_code_has_it(tiny_kontext, tmp_path):
    r = Rig(config(tiny_kontext, "diffusion_nft"), tmp_path)
    transformer = r.learner.editor.transformer
    expected = adapter_arrays(transformer)
    for step in range(3):
        r.step(step)
        now, decay = adapter_arrays(transformer), 0.001 * (step + 1)
        expected = {name: decay * array + (1 - decay) * now[name] for name, array in expected.items()}
        for name, array in r.learner.publish().arrays.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-9)
    assert r.learner.publish().fingerprint != weights_of(r.learner)


@pytest.mark.parametrize("kind", ["flow_grpo", "mix_grpo", "diffusion_nft", "edit_grpo"])
def test_a_whole_run_with_attention_measured_holds_the_audit(kind, tiny_kontext, tmp_path):
    over = {"algorithm": {"type": kind, **SMALL.get(kind, {})}, "sampler": {"group_size": 3, "steps": 3}}
    summary = run(tiny_run(tiny_kontext, tmp_path, "r", over))
    assert summary["steps"] == 4
    assert not any(audited(tmp_path / "r" / EVENTS).faults.values())


@pytest.fixture
def of_the_guide(tmp_path, monkeypatch):
    """The module that the guide writes, where Python finds it; its class."""
    (text,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(text.splitlines()) < 40
    (tmp_path / "my_methods.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_methods:PullToTheBest"
    sys.modules.pop("my_methods", None)


def test_the_guides_method_trains(of_the_guide, tiny_kontext, tmp_path):
    method = {"type": "custom", "method": of_the_guide, "settings": {"gain": 0.5}, "trained_steps": [0, 1]}
    r = Rig(tiny_config(tiny_kontext, algorithm=method), tmp_path)
    before = weights_of(r.learner)
    metrics = [r.step(step).metrics for step in range(3)]
    assert all(one["surrogate_gradient"] > 0 and one["leap_error"] < 1e-5 for one in metrics)
    assert weights_of(r.learner) != before


@pytest.mark.parametrize("family", ["transitions", "final"])
def test_a_method_of_ones_own_may_learn_from_anything(family, tiny_kontext):
    method = {"type": "custom", "method": "mine:Mine", "learns_from": family, "alpha_edit": 1.0, "alpha_base": 1.0}
    spec = rollout_spec(tiny_config(tiny_kontext, algorithm=method), Lease(0, 0, 0, 0, 0, 0))
    assert (spec.noisy, spec.kept) == (((0, 1), (0, 1)) if family == "transitions" else ((), (2,)))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("no_such_module:Mine", "algorithm.method: no_such_module cannot be imported"),
        ("my_methods:Mine", "algorithm.method: my_methods has no 'Mine'"),
        ("my_methods:ToTheBest", r"expected my_methods:ToTheBest to be a class with queries\(\)"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(path, sentence, of_the_guide):
    with pytest.raises(ConfigError, match=sentence):
        open_algorithm(CustomConfig(method=path))


def test_a_run_whose_method_is_not_there_makes_no_folder(tmp_path):
    config = load_config(["--algorithm.type", "custom", "--algorithm.method", "no_such_module:Mine"])
    with pytest.raises(ConfigError, match="no_such_module cannot be imported"):
        run(config.model_copy(update={"folder": str(tmp_path)}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["flow_grpo", "mix_grpo"])
def test_the_gate_refuses_a_group_whose_candidates_changed_places_on_the_way(kind, tiny_kontext, tmp_path):
    """Also where all began alike, so that only the noise on the way tells them apart."""
    r = Rig(config(tiny_kontext, kind, learner={"groups_per_step": 1}), tmp_path)
    r.publish()
    group, order = r.group(0, 0), [0, 2, 1, 3]
    swapped = replace(group, candidates=group.candidates[:, order], predecessors=group.predecessors[:, order])
    with pytest.raises(PolicyGateError):
        r.learner.consume(swapped, made_scores(swapped))
        r.learner.update()
