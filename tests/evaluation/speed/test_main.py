"""The command and its table, with measurements that cost nothing."""

import json

import pytest
import torch
from rich.console import Console

from evaluation.speed import __main__ as speed
from evaluation.speed import table
from evaluation.statistics import Spread


@pytest.fixture
def measured(monkeypatch):
    rows = [
        table.ratio("a / b", [2.0, 4.0, 9.0], [1.0, 2.0, 3.0], 2.0),
        table.ratio("c / d", [1e-5], [2e-5], 0.95, at_least=True),
    ]
    monkeypatch.setattr(speed, "measure_core", lambda *_: (rows[:1], "some clock", torch.device("cpu")))
    monkeypatch.setattr(speed, "measure_rewards", lambda *_: (rows, "other clock", torch.device("cpu")))
    monkeypatch.setattr(speed, "measure_runtime", lambda *_: (rows, "third clock", torch.device("cpu")))
    return rows


@pytest.mark.parametrize(
    ("what", "count", "clock"),
    [("core", 1, "some clock"), ("rewards", 2, "other clock"), ("runtime", 2, "third clock")],
)
def test_the_command_prints_a_table_and_writes_the_numbers(measured, tmp_path, capsys, what, count, clock):
    out = tmp_path / "speed.json"
    assert speed.main([what, "--repetitions", "1", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert len(written["rows"]) == count and written["clock"] == clock and written["chip"]
    assert written["command"].startswith(f"python -m evaluation.speed {what}")
    assert written["rows"][0].keys() == {"name", "ratio", "numerator", "denominator", "goal", "at_least", "reached"}
    assert "a / b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("goal", "at_least", "reached"),
    [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False), (None, False, None)],
)
def test_a_goal_is_reached_at_the_median(goal, at_least, reached):
    row = table.ratio("name", [2.0, 4.0, 9.0], [1.0, 2.0, 3.0], goal, at_least)
    assert row.ratio == Spread(2.0, 2.0, 2.5, 3) and row.reached is reached


def test_the_table_says_which_way_a_goal_goes(measured):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table.as_table(measured, "here"))
    text = capture.get()
    assert "≤ 2.00 ✓" in text and "≥ 0.95 ✗" in text and "0.0100 / 0.0200" in text


def test_milliseconds_have_three_digits():
    assert [table.milliseconds(s) for s in (1.5e-5, 0.00123456, 0.1234, 1.2345)] == ["0.0150", "1.23", "123", "1234"]


def test_wrong_settings_are_a_sentence(capsys):
    assert speed.main(["core", "--learner.stepz", "3"]) == 1
    assert "did you mean" in capsys.readouterr().out
