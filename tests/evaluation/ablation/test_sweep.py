"""The sweep: which runs it needs, what each of them changes, and what is said of the result."""

import json

import numpy as np
import pytest

from configs.load import load_config
from evaluation.ablation import sweep
from evaluation.controls import noise
from evaluation.runs import RowSpec
from rewards.scorer_api import ScoreInput
from tests.evaluation.ablation.untrained import BASE, Untrained, is_plot

ROWS = [RowSpec("global", "global"), RowSpec("rdp", "rdp")]
OVERRIDES = ["--learner.steps", "40"]


@pytest.fixture(scope="module")
def configs():
    return {row.label: load_config(["--config", row.config, *OVERRIDES]) for row in ROWS}


def loaded(spec):
    return load_config(["--config", spec.config, *OVERRIDES, *spec.flags])


def test_own_values_are_shared_by_all_axes(configs):
    specs = sweep.swept(ROWS, configs, list(sweep.AXES))
    values = sum(len(axis.values) for axis in sweep.AXES.values())
    assert len(specs) == 2 * (values - len(sweep.AXES)) + 2  # each axis has the rows' own value
    assert len({one.label for one in specs}) == len(specs)
    assert [one for one in specs if not one.flags] == ROWS


def test_every_run_differs_from_its_row_in_what_is_swept_alone(configs):
    keys = {
        "judge_noise": {"rewards.scorers", "rewards.weights"},
        "group_size": {"sampler.group_size", "learner.groups_per_step"},
        "mask_margin": {"data.mask_margin"},
        "alpha_edit": {"algorithm.alpha_edit", "algorithm.alpha_base"},
    }
    for axis in sweep.AXES:
        for spec in sweep.swept(ROWS, configs, [axis]):
            found, own = (one.model_dump() for one in (loaded(spec), configs[spec.label.split("-")[0]]))
            changed = {
                f"{section}.{key}"
                for section, values in own.items()
                if isinstance(values, dict)
                for key, value in values.items()
                if found[section][key] != value
            }
            assert changed <= keys[axis] and bool(changed) == bool(spec.flags), (spec, changed)


def test_candidates_per_step_and_the_two_ways_to_perturb_stay(configs):
    for spec in sweep.swept(ROWS, configs, ["group_size", "alpha_edit"]):
        config = loaded(spec)
        assert config.sampler.group_size * config.learner.groups_per_step == 96
        same = config.algorithm.alpha_base == config.algorithm.alpha_edit
        assert same == spec.label.startswith("global") and (same or config.algorithm.alpha_base == 0.05)


def test_judge_noise_has_the_standard_deviation_that_the_axis_says(configs):
    (spec,) = [one for one in sweep.swept(ROWS, configs, ["judge_noise"]) if one.label == "rdp-judge_noise-0.4"]
    rewards = loaded(spec).rewards
    assert {name: rewards.weights[name] for name in configs["rdp"].rewards.weights} == configs["rdp"].rewards.weights
    images = np.random.default_rng(0).integers(0, 256, (4000, 8, 8, 3), dtype=np.uint8)
    task = type("Task", (), {"height": 8, "width": 8, "task_id": "t"})()
    values = noise(ScoreInput(task, images, None)) * rewards.weights["judge_noise"]
    assert values.std() == pytest.approx(0.4, rel=0.03)


def gain(config):
    """RDP wins where the judge is noisy, and loses background with strong perturbation."""
    rdp = config.algorithm.alpha_base < config.algorithm.alpha_edit
    noisy = config.rewards.weights.get("judge_noise", 0) > 0.1
    found = dict.fromkeys(BASE, 0.1 + 0.01 * config.seed + 0.001 * (config.seed % 2) * rdp)
    found["edit_score"] += 0.2 * (rdp and noisy)
    found["background_psnr"] -= 0.5 * (rdp and config.algorithm.alpha_edit > 0.9)
    return found


def run(tmp_path, *more, runner=None):
    runner = runner or Untrained(gain)
    arguments = ["--out", str(tmp_path / "out"), "--tuned", str(tmp_path), "--seeds", "0", "1", "2", *OVERRIDES, *more]
    return sweep.main(arguments, runner), runner


def test_the_report_says_where_rdp_wins_and_where_not(tmp_path, capsys):
    status, runner = run(tmp_path, "--axes", "judge_noise", "alpha_edit")
    assert status == 0 and len(runner.configs) == 3 * 2 * (3 + 3 - 1)
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "- judge_noise, edit_score: RDP above global at 0.1, 0.4; not told apart at 0." in text
    assert "- alpha_edit, background_psnr: below it at 1; not told apart at 0.4, 0.8." in text
    assert "| 0.4 | edit_score | 3 | +0.2003 |" in text and "Not tuned" in text
    curves = json.loads((tmp_path / "out" / "sweep.json").read_text())["curves"]
    assert [one["axis"] for one in curves] == ["judge_noise", "alpha_edit"]
    assert len(curves[0]["gains"]["rdp"]) == 3 and len(curves[0]["differences"]) == 4 * 3
    for axis in ("judge_noise", "alpha_edit"):
        assert is_plot(tmp_path / "out" / f"sweep_{axis}.png") and is_plot(tmp_path / "out" / f"sweep_{axis}_gains.png")
    assert "RDP above global" in capsys.readouterr().out


def test_another_axis_uses_the_runs_that_are_there(tmp_path):
    run(tmp_path, "--axes", "mask_margin")
    status, runner = run(tmp_path, "--axes", "mask_margin", "group_size")
    assert status == 0
    assert {config.name.rpartition("-seed")[0] for config in runner.configs} == {
        f"{row}-group_size-{size}" for row in ("global", "rdp") for size in (4, 16)
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--algorithm.alpha_base", "0.8"), "algorithm.alpha_base: expected that of global equal to its alpha_edit"),
        (("--data.held_out_tasks", "0"), "data.held_out_tasks above 0"),
    ],
)
def test_flags_that_make_the_rows_the_same_are_refused(tmp_path, capsys, flags, words):
    status, runner = run(tmp_path, *flags)
    assert status == 1 and not runner.configs and words in capsys.readouterr().out.replace("\n", " ")
