"""Tables 2 and 3 from plan to report, with a runner that trains nothing."""

import json
import shutil

import pytest

from evaluation import plots
from evaluation.ablation import __main__ as ablation
from evaluation.ablation import papers_tables
from tests.documents import page
from tests.evaluation.ablation.untrained import BASE, Untrained, is_plot


def gain(config):
    """Of a method that does more harm outside the mask the more of it is perturbed."""
    level = {"global": 0.1, "rdp": 0.4, "rdp_acd": 0.5}[config.name.split("-")[0]]
    return {name: level + 0.01 * config.seed * (1 + level) for name in BASE}


@pytest.fixture
def tuned(tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "rdp.yaml").write_text("extends: rdp\nname: rdp\nlearner:\n  optimizer:\n    lr: 0.007\n")
    search = {"command": ["python", "-m", "evaluation.tune", "--learner.steps", "40"], "trials": []}
    (folder / "tuning.json").write_text(json.dumps({"rows": {"rdp": search}}))
    return folder


def run(table, tmp_path, tuned, *more, by=gain):
    runner = Untrained(by)
    arguments = ["--out", str(tmp_path / "out"), "--tuned", str(tuned), "--seeds", "0", "1", "2", *more]
    return getattr(papers_tables, table)(arguments, runner), runner


def test_table2_compares_its_rows_and_says_where_the_paper_has_it_otherwise(tmp_path, tuned, capsys):
    status, runner = run("table2", tmp_path, tuned, "--learner.steps", "9")
    assert status == 0 and len(runner.configs) == 9
    assert {config.name.split("-")[0] for config in runner.configs} == {"global", "rdp", "rdp_acd"}
    assert {config.learner.steps for config in runner.configs} == {9}
    rates = {config.name: config.learner.optimizer.lr for config in runner.configs}
    assert rates["rdp-seed1"] == 0.007 and rates["global-seed1"] == 0.002  # tuned, and its preset's own
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Where this differs from the paper" in text and "From global to rdp the paper reports LPIPS" in text
    assert "Not tuned, so at their own settings: global, rdp_acd" in text and "--learner.steps 40" in text
    assert "| edit_score | global → rdp | 3 | +0.3030 |" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(found["rows"]) == 3 and found["paper"]["rows"]["rdp"]["PSNR"] == 24.788
    step = next(d for d in found["differences"] if (d["metric"], d["after"]) == ("edit_score", "global"))
    assert step["before"] is None and step["corrected"] >= step["p"] and step["sign"] == 1
    assert is_plot(tmp_path / "out" / "report.png") and "Where this differs" in capsys.readouterr().out


def test_finished_rows_are_not_trained_again(tmp_path, tuned):
    run("table2", tmp_path, tuned)
    shutil.rmtree(tmp_path / "out" / "rdp-seed2")
    status, runner = run("table2", tmp_path, tuned)
    assert status == 0 and [config.name for config in runner.configs] == ["rdp-seed2"]


def test_table3_differs_in_the_bandwidths_alone(tmp_path, tuned):
    status, runner = run("table3", tmp_path, tuned, by=lambda config: config.algorithm.tau_edit + config.seed)
    assert status == 0 and len(runner.configs) == 12
    bandwidths = {(c.name.rpartition("-")[0], c.algorithm.tau_edit, c.algorithm.tau_base) for c in runner.configs}
    assert bandwidths == {
        ("tau_1_1", 1.0, 1.0),
        ("tau_.9_1.1", 0.9, 1.1),
        ("tau_.8_1.2", 0.8, 1.2),
        ("tau_1.2_.8", 1.2, 0.8),
    }
    assert all(config.rewards.weights["acd"] == 0.3 for config in runner.configs)
    one, *others = [config for config in runner.configs if config.seed == 1]
    same = {"tau_edit": 1.0, "tau_base": 1.0}
    for config in others:
        assert (
            config.model_copy(update={"algorithm": config.algorithm.model_copy(update=same), "name": one.name}) == one
        )


def test_a_folder_without_tuned_rows_is_refused_before_a_run(tmp_path, capsys):
    status, runner = run("table2", tmp_path, tmp_path / "none")
    assert status == 1 and not runner.configs and "--tuned: expected a folder of rows" in capsys.readouterr().out


def test_missing_plots_are_told_before_a_run(tmp_path, tuned, monkeypatch, capsys):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    status, runner = run("table2", tmp_path, tuned)
    assert status == 1 and not runner.configs and "pip install -e '.[plots]'" in capsys.readouterr().out


def test_tables_are_chosen_by_the_first_word(capsys):
    assert ablation.command(["table3", "--jobs", "2"]) == (papers_tables.table3, ["--jobs", "2"])
    run_rows, words = ablation.command(["--rows", "rdp"])
    assert run_rows is ablation.rows.main and words == ["--rows", "rdp"]
    assert ablation.main(["tabel2"]) == 1
    assert "expected one of table2, table3" in (said := capsys.readouterr().err) and "did you mean table2?" in said


def test_every_table_is_in_the_documentation_and_in_the_help(capsys):
    text = page("docs/results.md")
    for name in ablation.TABLES:
        assert f"python -m evaluation.ablation {name}" in text and f"| `{name}` |" in text
        assert f"python -m evaluation.ablation {name} " in ablation.__doc__
    with pytest.raises(SystemExit):
        ablation.main(["--help"])
    assert "evaluation.ablation layers" in capsys.readouterr().out
