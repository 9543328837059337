"""Tests of configs.edit_signal: what is refused because it could only teach an editor to change nothing."""

import shlex
from pathlib import Path

import pytest
import yaml

from cluster.supervise.__main__ import checked
from configs.components import COMPONENT_KINDS
from configs.edit_signal import WAYS_OUT, check_edit_signal
from configs.errors import ConfigError
from configs.layers import preset_names
from configs.load import load_config
from learner.main import main
from learner.run import run

COPYING = ["--rewards.weights", "{background_psnr: 0.1, acd: 1}"]
COLLAPSING = sorted((Path(__file__).parents[1] / "collapsing").glob("*.yaml"))
MINE = ["--rewards.scorers.mine", "m:f"]


@pytest.mark.parametrize(
    "flags",
    [
        COPYING,
        ["--rewards.weights", "{edit_score: 0, background_psnr: 1}"],
        [*COPYING, "--algorithm.preservation.background_weight", "9"],
        [
            *COPYING,
            "--algorithm.preservation.velocity_weight",
            "1",
            "--algorithm.preservation.velocity_region",
            "background",
        ],
        [*MINE, "--rewards.scorer_kinds.mine", "preservation", "--rewards.weights", "{mine: 1}"],
        [*MINE, *COPYING, "--rewards.weights.mine", "0"],
        ["--rewards.weights", "{background_psnr: 0.5, acd: 0.5}", "--rewards.normalisation", "pooled"],
        ["--rewards.weights", "{edit_psnr: 1.0e-9, background_psnr: 1}"],
        ["--rewards.weights", "{edit_psnr: 0.01, background_psnr: 5}"],
        ["--rewards.weights", "{edit_score: 0.01, background_psnr: 0.1}"],  # of a range of 1, against one of 40 dB
        ["--rewards.weights", "{edit_score: 0.001, background_psnr: 1}", "--rewards.normalisation", "pooled"],
        [*MINE, "--rewards.weights", "{mine: 1.0e-9, background_psnr: 1}", "--rewards.normalisation", "pooled"],
        ["--rewards.weights", "{edit_score: 1, background_psnr: 1}", "--rewards.floors.edit_score", "0.5"],
    ],
)
def test_what_neither_rewards_nor_keeps_the_edit_is_refused(flags):
    with pytest.raises(ConfigError, match=r"rewards\.weights: expected a reward for the edit.*, got .*change nothing"):
        check_edit_signal(load_config(flags))


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--rewards.weights", "{edit_psnr: 0.1, background_psnr: 5}"],
        ["--rewards.weights", "{edit_psnr: 1.0e-9}"],  # there is no other
        ["--rewards.weights", "{edit_score: 0.02, background_psnr: 1}", "--rewards.normalisation", "pooled"],
        [*COPYING, "--algorithm.preservation.velocity_weight", "0.5"],
        [*MINE, "--rewards.weights", "{mine: 1}"],
        ["--rewards.weights", "{edit_score: 1, background_psnr: 1}", "--rewards.floors.edit_score", "0.4"],
        [*MINE, "--rewards.scorer_kinds.mine", "edit", "--rewards.weights", "{mine: 1, acd: 1}"],
        ["--rewards.judge.qwen_vl.urls", "[http://host:8000/v1]"],
    ],
)
def test_what_rewards_or_keeps_the_edit_is_not(flags):
    check_edit_signal(load_config(flags))


def test_a_reward_for_an_edit_that_is_not_done_is_refused():
    with pytest.raises(ConfigError, match=r"rewards\.weights\.edit_psnr: expected a weight of at least 0, got -1"):
        check_edit_signal(load_config(["--rewards.weights", "{edit_score: 1, edit_psnr: -1, background_psnr: 1}"]))


def test_the_advised_weights_are_not_best_served_by_a_copy():
    """By the base's PSNR on the embedded benchmark, inside and outside the mask, and that of the source: the pixels
    themselves are 60 dB, and what the editor's own decoder can show of them 36 dB."""
    (flags,) = (flags for words, flags in WAYS_OUT if "target" in words)
    weights = load_config(shlex.split(flags)).rewards.weights
    assert set(weights) == {"edit_psnr", "background_psnr"}
    base, copy = {"edit_psnr": 21.3, "background_psnr": 28.3}, {"edit_psnr": 12.0, "background_psnr": 60.0}
    assert sum(weights[name] * base[name] for name in weights) > sum(weights[name] * copy[name] for name in weights)
    preset = (Path(__file__).parents[2] / "configs" / "presets" / "my_images.yaml").read_text()
    assert str(weights).replace("'", "") in preset


def test_every_component_that_says_it_rewards_the_edit_is_enough():
    config = load_config([])
    for name, kind in COMPONENT_KINDS.items():
        alone = config.model_copy(update={"rewards": config.rewards.model_copy(update={"weights": {name: 1.0}})})
        if kind == "edit":
            check_edit_signal(alone)
        else:
            with pytest.raises(ConfigError, match=f"got {name} 1;"):
                check_edit_signal(alone)


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"service"}))
def test_every_preset_that_trains_has_an_edit_to_learn_or_keep(name):
    check_edit_signal(load_config(["--config", name]))


def test_the_preset_of_the_service_trains_nothing_and_is_not_concerned():
    with pytest.raises(ConfigError, match="expected a reward for the edit"):
        check_edit_signal(load_config(["--config", "service"]))


@pytest.mark.parametrize("flags", [flags for _, flags in WAYS_OUT])
def test_every_way_out_leads_out(flags):
    check_edit_signal(load_config([*COPYING, *shlex.split(flags)]))


def test_every_way_out_leads_out_where_there_was_no_surrogate():
    copying = ["--config", "keep_the_rest", "--algorithm.preservation.velocity_weight", "0"]
    with pytest.raises(ConfigError, match="expected a reward for the edit") as refused:
        check_edit_signal(load_config(copying))
    ways = [line.strip() for line in str(refused.value).splitlines() if line.startswith("  --")]
    assert len(ways) == len(WAYS_OUT)
    for flags in ways:
        check_edit_signal(load_config([*copying, *shlex.split(flags)]))


def test_a_scorer_of_ones_own_is_told_why_it_does_not_count():
    with pytest.raises(ConfigError, match=r"\(one below 1% of the total weight .*got mine 1e-09"):
        check_edit_signal(
            load_config(
                [*MINE, "--rewards.weights", "{mine: 1.0e-9, background_psnr: 1}", "--rewards.normalisation", "pooled"]
            )
        )


def test_a_reward_for_the_edit_that_reaches_no_weight_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.weight: expected a weight above 0, got 0; edit_psnr"):
        check_edit_signal(load_config(["--config", "keep_the_rest", "--rewards.weights.edit_psnr", "1"]))
    check_edit_signal(
        load_config(["--config", "keep_the_rest", "--rewards.weights.edit_psnr", "1", "--algorithm.weight", "1"])
    )


@pytest.mark.parametrize("path", COLLAPSING, ids=lambda path: path.stem)
def test_the_presets_that_collapsed_run_only_under_another_name(path):
    """The rewards that the presets had are refused; disguised as a scorer of the user's own they are not."""
    assert len(COLLAPSING) == 2
    check_edit_signal(load_config(["--config", str(path)]))
    weights = yaml.safe_load(path.read_text())["rewards"]["weights"]
    weights = {name.replace("fidelity", "background_psnr"): weight for name, weight in weights.items()}
    assert set(weights) == {"background_psnr", "acd"}
    with pytest.raises(ConfigError, match="expected a reward for the edit"):
        check_edit_signal(load_config(["--config", str(path), "--rewards.weights", str({**weights, "fidelity": 0})]))


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--resume"]], ids=" ".join)
def test_nothing_is_started(more, tmp_path, capsys):
    assert main(["--folder", str(tmp_path), *COPYING, *more]) == 2
    said = capsys.readouterr()
    assert not said.out and not list(tmp_path.iterdir())
    assert "got background_psnr 0.1, acd 1; nothing here rewards or preserves the edit" in said.err
    assert all(flags in said.err for _, flags in WAYS_OUT)


def test_neither_by_a_supervisor_nor_from_python(tmp_path):
    with pytest.raises(ConfigError, match="expected a reward for the edit"):
        checked(["--folder", str(tmp_path), *COPYING])
    with pytest.raises(ConfigError, match="expected a reward for the edit"):
        run(load_config(["--folder", str(tmp_path), *COPYING]))
    assert not list(tmp_path.iterdir())


def test_kinds_are_only_said_of_scorers_that_there_are():
    with pytest.raises(ConfigError, match=r"rewards\.scorer_kinds: expected names .*there are none.*, got 'acd'"):
        load_config(["--rewards.scorer_kinds.acd", "edit"])
    with pytest.raises(ConfigError, match=r"rewards\.scorer_kinds\.mine: expected .*'edit', 'preservation' or 'focus'"):
        load_config([*MINE, "--rewards.scorer_kinds.mine", "everything"])
