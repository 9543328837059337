"""All methods beside each other: how many steps each row gets, and the two reports."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.load import load_config
from evaluation.ablation import methods
from evaluation.ablation.equal_cpu import GroupSeconds, steps_at_equal_cpu, steps_at_equal_rollouts
from evaluation.ablation.own_reward import own_rewards
from evaluation.ablation.trained import Trained
from evaluation.runs import Finished, Run
from evaluation.speed.methods import MethodCost, method_types
from tests.evaluation.ablation.untrained import BASE, Untrained, is_plot

ROWS = ["rc_grpo", "locus", "flow_grpo"]
COSTS = {"rc_grpo": (0.30, 0.10), "locus": (0.30, 0.10), "flow_grpo": (0.30, 0.34)}


class Measured:
    """Costs that are known, and how often they were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, configs, repetitions):
        self.asked.append((list(configs), repetitions))
        return {name: MethodCost([COSTS[name][0]] * 3, [9.0, COSTS[name][1], 0.0], 7) for name in configs}


def run(tmp_path, *more, measure=None, rows=ROWS):
    tuned = tmp_path / "tuned"
    tuned.mkdir(exist_ok=True)
    (tuned / "locus.yaml").write_text("extends: locus\nname: locus\nlearner:\n  optimizer:\n    lr: 0.003\n")
    runner = Untrained(lambda c: {name: 0.001 * c.learner.steps + 0.01 * c.seed**2 for name in BASE})
    arguments = ["--rows", *rows, "--tuned", str(tuned), "--out", str(tmp_path / "out"), "--seeds", "0", "1"]
    return methods.main([*arguments, "--learner.steps", "40", *more], runner, measure or Measured()), runner


def configs(**flags):
    return {name: load_config(list(words)) for name, words in flags.items()}


def test_equal_rollouts_are_equal_numbers_of_candidates():
    given = configs(
        a=("--learner.steps", "40"),
        b=("--sampler.group_size", "4"),
        c=("--learner.groups_per_step", "7"),
    )
    steps = steps_at_equal_rollouts(given, "a")
    assert steps == {"a": 40, "b": 80, "c": round(40 * 12 / 7)}
    for name, count in steps.items():
        candidates = count * given[name].learner.groups_per_step * given[name].sampler.group_size
        assert abs(candidates - 40 * 96) <= given[name].learner.groups_per_step * given[name].sampler.group_size / 2


def test_equal_cpu_seconds_are_equal_products_of_steps_groups_and_cost():
    given = configs(a=("--learner.steps", "40"), b=(), c=("--learner.groups_per_step", "4"), d=())
    costs = {
        "a": GroupSeconds(0.3, 0.1),
        "b": GroupSeconds(0.3, 0.2),
        "c": GroupSeconds(0.3, 0.1),
        "d": GroupSeconds(9e9, 1.0),
    }
    assert steps_at_equal_cpu(given, costs, "a") == {"a": 40, "b": 32, "c": 120, "d": 1}


def test_both_comparisons_have_their_steps_and_share_the_runs_that_are_the_same(tmp_path, capsys):
    status, runner = run(tmp_path)
    assert status == 0
    ran = [(Path(c.folder).name, c.name, c.learner.steps) for c in runner.configs]
    assert sorted(ran) == sorted(
        [("rollouts", f"{row}-seed{seed}", 40) for row in ROWS for seed in (0, 1)]
        + [("cpu", f"flow_grpo-seed{seed}", 25) for seed in (0, 1)]  # .4 s of .64 s
    )
    assert {c.learner.optimizer.lr for c in runner.configs if c.name.startswith("locus")} == {0.003}
    for name, steps in (("rollouts", [40, 40, 40]), ("cpu", [40, 40, 25])):
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert [row["name"] for row in found["rows"]] == ROWS
        assert [found["steps"][row] for row in ROWS] == steps
        gained = [row["metrics"]["edit_score"]["difference"]["mean"] for row in found["rows"]]
        assert gained == pytest.approx([0.001 * count + 0.005 for count in steps])
        assert {(one["before"], one["after"]) for one in found["differences"]} == {
            ("rc_grpo", "locus"),
            ("flow_grpo", "locus"),
        }
        assert is_plot(tmp_path / "out" / f"{name}.png") and is_plot(tmp_path / "out" / f"{name}_frontier.png")
        text = (tmp_path / "out" / f"{name}.md").read_text()
        assert "Not tuned, so at their own settings: rc_grpo, flow_grpo." in text
        assert f"flow_grpo: {steps[2]} steps" in text and f"({name}_frontier.png)" in text


def test_a_resumed_table_keeps_its_calibration(tmp_path):
    first = Measured()
    run(tmp_path, measure=first)
    again = Measured()
    status, runner = run(tmp_path, measure=again)
    assert status == 0 and first.asked == [(ROWS, methods.REPETITIONS)] and again.asked == [] and not runner.configs


def test_a_calibration_of_other_rows_is_refused(tmp_path, capsys):
    run(tmp_path)
    status, runner = run(tmp_path, rows=["rc_grpo", "locus"])
    assert status == 1 and not runner.configs
    assert "calibration.json was measured for other rows" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--reference", "nothing"), "--reference: expected one of the rows rc_grpo, locus, flow_grpo, got nothing"),
        (("--against", "nothing"), "--against: expected one of the rows"),
    ],
)
def test_rows_that_are_not_there_are_refused(tmp_path, capsys, more, words):
    measure = Measured()
    status, runner = run(tmp_path, *more, measure=measure)
    assert status == 1 and not runner.configs and not measure.asked and words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: quickstart\neditor:\n  lora:\n    rank: 2\n", "another editor in other than in rc_grpo"),
        ("extends: ROWS/noise_reward.yaml\n", "other is rewarded by noise, which waits for another process"),
    ],
)
def test_rows_whose_cost_is_not_comparable_are_refused(tmp_path, capsys, text, words):
    row = tmp_path / "other.yaml"
    row.write_text(text.replace("ROWS", str(Path("evaluation/rows").resolve())))
    measure = Measured()
    status, runner = run(tmp_path, measure=measure, rows=["rc_grpo", "locus", str(row)])
    assert status == 1 and not runner.configs and not measure.asked and words in capsys.readouterr().out


def test_every_row_says_what_it_gained_in_its_own_reward():
    rewarded = load_config(["--config", "rdp_acd"])
    weights = rewarded.rewards.weights
    seeds = [{"edit_score": 0.1, "edit_psnr": 1.0, "background_psnr": -0.2 * seed} for seed in range(3)]
    expected = [sum(weights[name] * gain[name] for name in gain) for gain in seeds]
    runs = [Run("rdp_acd", seed, f"rdp_acd-seed{seed}", Path(), "", ()) for seed in range(3)]
    done = {run.name: Finished("trained", BASE, gain, 1.0, {}) for run, gain in zip(runs, seeds, strict=True)}
    (said,) = own_rewards(Trained(runs, done), {"rdp_acd": rewarded})
    assert said.startswith(f"rdp_acd: {np.mean(expected):+.4f} (") and said.endswith(", without acd.")
    assert "in edit_score + edit_psnr + background_psnr" in said
    fallen = {
        name: Finished("ruined", BASE, {"edit_score": -one.gain["edit_score"]}, 1.0, {}) for name, one in done.items()
    }
    (said,) = own_rewards(Trained(runs, fallen), {"rdp_acd": rewarded})
    assert said.startswith("rdp_acd: -0.1000") and said.endswith(
        "which is not shown to rise, without acd, background_psnr, edit_psnr."
    )
    lost = dict.fromkeys(done, Finished("diverged", {}, {}, None, {}))
    assert own_rewards(Trained(runs, lost), {"rdp_acd": rewarded}) == ["rdp_acd: not measured (diverged 3 of 3)."]


@pytest.mark.parametrize(
    ("setting", "how"), [("composition: gated", "gated"), ("normalisation: minibatch", "standardised in training")]
)
def test_a_reward_that_is_no_sum_is_told_by_its_components(tmp_path, setting, how):
    (tmp_path / "row.yaml").write_text(f"extends: quickstart\nrewards:\n  {setting}\n")
    config = load_config(["--config", str(tmp_path / "row.yaml")])
    seeds = [{"edit_score": 0.1, "edit_psnr": 1.0 + seed, "background_psnr": -0.2} for seed in range(3)]
    runs = [Run("row", seed, f"row-seed{seed}", Path(), "", ()) for seed in range(3)]
    done = {run.name: Finished("trained", BASE, gain, 1.0, {}) for run, gain in zip(runs, seeds, strict=True)}
    (said,) = own_rewards(Trained(runs, done), {"row": config})
    assert said.startswith(f"row: {how}, so by component: +0.1000 (") and "+2.0000 (" in said
    assert said.endswith("in background_psnr, which is not shown to rise.") and " + " not in said


def test_every_method_has_a_row():
    rows = methods.method_rows()
    assert rows[0] == methods.REFERENCE and methods.OURS in rows and len(set(rows)) == len(rows)
    found = {load_config(["--config", row]).algorithm.type for row in rows}
    assert found == set(method_types())
    methods.check_comparable({row: load_config(["--config", row]) for row in rows})
