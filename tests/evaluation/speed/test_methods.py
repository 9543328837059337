"""The cost of the methods on the tiny model: that what is measured is what the names say. No seconds are asserted."""

import json
from typing import get_args

import pytest
import torch

from actors.rollout import roll_out
from configs.algorithms import AlgorithmConfig
from configs.errors import ConfigError
from configs.load import load_config
from editing.trajectory import Lease
from evaluation.speed import __main__ as speed
from evaluation.speed import methods


@pytest.fixture(scope="module")
def flags(tiny_kontext):
    return [
        "--editor.path",
        str(tiny_kontext),
        "--sampler.group_size",
        "3",
        "--learner.groups_per_step",
        "2",
        "--data.train_tasks",
        "4",
        "--data.held_out_tasks",
        "1",
        "--editor.max_text_tokens",
        "10",
    ]


@pytest.fixture(scope="module")
def table(flags):
    return methods.measure(flags, 2)


def test_every_method_is_measured_beside_the_reference(table):
    every = {member.model_fields["type"].default for member in get_args(get_args(AlgorithmConfig)[0])}
    types = every - {"custom", "sft", "dpo"}  # which roll nothing out
    assert set(methods.method_types()) == types and methods.method_types()[0] == "rc_grpo"
    assert set(table.nbytes) == types and table.left_out == [] and len(table.rows) == 2 * len(types) - 1
    for row in table.rows:
        assert row.ratio.count == 2 and row.numerator.median > 0 and row.denominator.median > 0
    named = {row.name for row in table.rows}
    assert "rollout of a group, flow_grpo / rc_grpo" in named and "update per group, locus / rc_grpo" in named


def test_bytes_are_those_of_the_message(table, flags):
    """float32: K kept steps of all candidates, and of the anchors the states before them."""
    config = load_config([*flags, "--algorithm.type", "rc_grpo"])
    bench = methods.MethodBench(config, methods.open_policy(config.editor, 0), methods.open_tasks(config), lambda: 0.0)
    group = roll_out(bench.editor, bench.tasks.train[0], Lease(0, 0, 0, 0, 7, 0), config, "hash")
    kept, size, tokens, channels = group.candidates.shape
    latents = 4 * tokens * channels * (kept * size + kept * config.algorithm.anchors)
    rest = group.images.nbytes + group.sigmas.nbytes + group.anchors.nbytes
    assert table.nbytes["rc_grpo"] == latents + rest
    assert table.nbytes["diffusion_nft"] < table.nbytes["rc_grpo"] <= table.nbytes["locus"]


def test_rollouts_are_spread_over_the_run_and_weights_stay(flags, tmp_path):
    config = load_config([*flags, "--algorithm.type", "mix_grpo", "--learner.steps", "100"])
    editor = methods.open_policy(config.editor, 0)
    before = {name: p.detach().clone() for name, p in editor.transformer.named_parameters()}
    bench = methods.MethodBench(config, editor, methods.open_tasks(config), lambda: 0.0)
    bench.open(str(tmp_path), repetitions=3)
    assert [lease.step for lease in bench._leases] == [0, 25, 50, 75]
    windows = {config.algorithm.window(config.sampler.steps, lease.step) for lease in bench._leases}
    assert len(windows) > 1
    assert [bench.rollout(), bench.update(), bench.update(), bench.update()] == [0.0] * 4
    for name, parameter in editor.transformer.named_parameters():
        assert (parameter - before[name]).abs().max() < 1e-9, name


def test_the_preservation_unit_is_known_before_anything_is_timed(flags, tmp_path):
    config = load_config(flags)
    bench = methods.MethodBench(config, methods.open_policy(config.editor, 0), methods.open_tasks(config), lambda: 0.0)
    bench.open(str(tmp_path), repetitions=1)
    assert methods.settling(2) == 4 and methods.settling(12) == 1
    assert not bench._learner._balance.wanted(config.algorithm)


def test_a_method_that_does_not_fit_the_flags_is_left_out_with_its_reason(flags):
    found, left_out = methods.method_configs([*flags, "--algorithm.alpha_edit", "0.5"])
    assert "rc_grpo" in found and "neighbor_grpo" not in found  # whose alpha_base is .8
    assert any(one.startswith("neighbor_grpo was not measured: algorithm.alpha_base") for one in left_out)
    with pytest.raises(ConfigError):
        methods.method_configs([*flags, "--algorithm.alpha_edit", "0.01"])


def test_the_command_writes_bytes_and_what_was_left_out(monkeypatch, tmp_path, capsys):
    found = methods.MethodTable(
        [methods.ratio("a / b", [1.0], [2.0])], "a clock", torch.device("cpu"), {"rc_grpo": 100, "x": 250}, ["y: why"]
    )
    monkeypatch.setattr(methods, "measure", lambda flags, repetitions: found)
    assert speed.main(["methods", "--out", str(tmp_path / "speed.json")]) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["bytes_per_group"] == {"rc_grpo": 100, "x": 250} and written["left_out"] == ["y: why"]
    said = capsys.readouterr().out
    assert "bytes of a group, x: 250 (2.50 of rc_grpo)" in said and "y: why" in said
