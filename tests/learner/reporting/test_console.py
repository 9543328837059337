"""What the terminal shows: plain lines for logs, a live table for people, the final table, and how to go on."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from configs.schema import RunConfig
from learner.reporting.console import BARS, ConsoleReport, account, amount, clock, colour, final_table, step_line, trend
from learner.reporting.records import Counters, EvaluationRecord, RunRecord, StepRecord

ACCOUNT = {
    "counters": {"leased": 9, "trained": 6, "rejected": 1, "requeued": 2, "in_flight": 0, "replayed": 3},
    "left_out": {"lines": {"data.path": ["line 4: no mask"]}, "tasks": {"7": "gone"}},
}
ENDED = {
    **ACCOUNT,
    "verdict": {"outcome": "trained", "reasons": []},
    "final": {"mean": {"edit_psnr": 19.5}},
    "notifications": [],
}


def step(done: int = 3, seconds: float = 2.0, **more) -> StepRecord:
    fields = {
        "step": done,
        "steps": 10,
        "version": done,
        "reward_mean": {"edit_score": 0.4567, "background_psnr": 24.5},
        "reward_std": {"edit_score": 0.12, "background_psnr": 0.9},
        "zero_std_share": 0.25,
        "staleness": {0: 12},
        "groups_per_minute": 75.4,
        "counters": Counters(),
        "seconds": {"rollout": 1.5, "step": seconds},
        "learner": {"loss": 0.1},
    }
    return StepRecord(**{**fields, **more})


def measured(label: str, value: float, **more) -> EvaluationRecord:
    return EvaluationRecord(
        label,
        0 if label == "base" else 10,
        256,
        {"edit_psnr": value, "edit_score": 0.5, **more},
        {"edit_psnr": 0.2},
        3.0,
    )


def report(terminal: bool, width: int = 120) -> tuple[ConsoleReport, io.StringIO]:
    stream = io.StringIO()
    return ConsoleReport(Console(file=stream, force_terminal=terminal, width=width, highlight=False)), stream


def start(folder: Path, first_step: int = 0) -> RunRecord:
    return RunRecord(RunConfig(), "abcdef0123456789", folder, first_step, 4096, 256)


def test_a_step_is_one_line_with_everything_that_matters():
    assert step_line(step(), 14.0) == (
        "step 3/10 · edit_score 0.457 ± 0.120 · background_psnr 24.50 ± 0.90 dB · zero variance 25% · age all fresh · "
        "75 groups/min · left 0:14"
    )
    troubled = step(
        staleness={0: 10, 2: 2},
        counters=Counters(rejected=1, requeued=2),
        learner={"leap_error": 2e-7, "leap_tolerance": 1e-5, "gradient_norm": 0.123, "skipped_updates": 1.0},
    )
    line = step_line(troubled, 3725.0)
    assert "age 0: 10, 2: 2" in line and "rejected 1, redone 2" in line
    assert "policy gate 2.0e-07 of 1.0e-05 · gradient 0.12 · skipped updates 1" in line
    assert line.endswith("left 1:02:05")


def test_a_weight_that_follows_a_target_and_filtered_groups_are_told():
    held = {"background_weight": 0.2345, "background_measured": 27.31, "filtered_edit": 0.0, "filtered_range": 3.0}
    line = step_line(step(learner={**held, "filtered_mean": 1.0}), 14.0)
    assert "background weight 0.23 at 27.3 dB · groups filtered: range 3, mean 1 · left" in line


def test_at_the_end_every_group_is_accounted_for():
    assert account(ACCOUNT) == (
        "9 groups leased = 6 trained + 1 rejected + 2 requeued + 0 in flight; 3 of them from the spool; "
        "1 faulty lines left out; 1 tasks went bad and were left out"
    )
    whole = {
        "counters": {**dict.fromkeys(ACCOUNT["counters"], 0), "leased": 6, "trained": 6},
        "left_out": {"lines": {"data.path": []}, "tasks": {}},
    }
    assert account(whole) == "6 groups leased = 6 trained + 0 rejected + 0 requeued + 0 in flight"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_a_trend_has_one_bar_per_value_and_keeps_their_order(values):
    bars = trend(values)
    assert len(bars) == len(values) and set(bars) <= set(BARS)
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            if a < b:
                assert BARS.index(bars[i]) <= BARS.index(bars[j])
    if max(values) > min(values):
        assert {BARS[0], BARS[-1]} <= set(bars)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_without_a_terminal_every_step_is_a_plain_line(tmp_path: Path):
    console, stream = report(terminal=False, width=40)
    console.on_start(start(tmp_path))
    console.on_evaluation(measured("base", 18.0))
    for done, seconds in ((1, 4.0), (2, 2.0)):
        console.on_step(step(done, seconds))
    text = stream.getvalue()
    lines = text.splitlines()
    assert "\x1b" not in text
    # A log line is never broken, however narrow the log claims to be.
    assert [line for line in lines if line.startswith("step ")] == [
        step_line(step(1, 4.0), 9 * 4.0),
        step_line(step(2, 2.0), 8 * 3.0),
    ]
    assert any(line.startswith("base on 256 held-out tasks: edit_score 0.500, edit_psnr 18.00 dB") for line in lines)


@pytest.mark.parametrize(
    ("name", "value", "spread", "text"),
    [
        ("edit_psnr", 24.529, 0.61, "24.53 ± 0.61 dB"),
        ("acd", 0.4622, None, "0.462"),
        ("mine", 0.000103, 0.000174, "0.00010 ± 0.00017"),
        ("mine", -0.00002, None, "-0.000020"),
        ("mine", 0.0002, 0.12, "0.000 ± 0.120"),
        ("mine", 0.0, 0.0, "0.000 ± 0.000"),
        ("mine", float("nan"), None, "nan"),
    ],
)
def test_an_amount_shows_what_it_is(name, value, spread, text):
    assert amount(name, value, spread) == text


def test_one_held_out_task_is_one():
    one = EvaluationRecord(1, "final", 1, {"edit_score": 0.5}, {}, 2.0)
    assert final_table(None, one, {}).title == "1 held-out task, mean ± standard error"


def test_on_a_terminal_the_table_is_live_and_gone_after_close(tmp_path: Path):
    console, stream = report(terminal=True)
    console.on_start(start(tmp_path))
    console.on_step(step(1))
    console.on_step(step(2, reward_mean={"edit_score": 0.9, "background_psnr": 24.5}))
    text = stream.getvalue()
    for part in (
        "quickstart",
        "step 2/10",
        "± in group",
        "0.900",
        "▁█",
        "zero-variance groups 25%",
        "75 groups/min",
        "left 0:16",
    ):
        assert part in text
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert text.rindex(shown) > text.rindex(hidden)  # whatever ends the run, the terminal has its cursor
    console.close()
    console.close()
    assert stream.getvalue().rindex(shown) > stream.getvalue().rindex(hidden)


def test_a_component_that_a_step_lacks_does_not_break_the_table(tmp_path: Path):
    console, _ = report(terminal=True)
    console.on_start(start(tmp_path))
    console.on_step(step(1, reward_mean={}, reward_std={}))
    console.on_step(step(2))
    console.close()


def test_the_final_table_has_base_trained_and_difference():
    stream = io.StringIO()
    table = final_table(measured("base", 18.0), measured("final", 19.5, edit_accuracy=0.7), {"edit_psnr": 0.11})
    Console(file=stream, width=120, force_terminal=False).print(table)
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in stream.getvalue().splitlines()
        if line.startswith("│")
    }
    assert rows["edit_psnr"] == ["18.00 ± 0.20 dB", "19.50 ± 0.20 dB", "+1.50 ± 0.11 dB"]
    assert rows["edit_score"] == ["0.500", "0.500", "0.000"]
    assert rows["edit_accuracy"] == ["–", "0.700", ""]


@pytest.mark.parametrize(
    ("name", "base", "trained", "said"),
    [
        ("edit_psnr", 18.0, 19.0, "green"),
        ("edit_psnr", 18.0, 17.0, "red"),
        ("edit_score", 0.5, 0.5, ""),
        ("edit_delta_e", 9.0, 8.0, "green"),
        ("edit_delta_e", 9.0, 9.5, "red"),
        ("edit_saturation_drift", -0.2, -0.1, "green"),
        ("edit_saturation_drift", -0.1, 0.15, "red"),
        ("edit_change", 0.2, 0.3, ""),
        ("background_cast_share", 0.2, 0.1, ""),
    ],
)
def test_a_difference_has_the_colour_of_what_it_means(name, base, trained, said):
    assert colour(name, base, trained) == said


def test_the_end_says_what_to_type_next(tmp_path: Path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "index.html").write_text("x")
    console, stream = report(terminal=False, width=200)
    console.on_start(start(tmp_path))
    console.on_evaluation(measured("base", 18.0))
    console.on_evaluation(measured("final", 19.5))
    console.on_end({**ENDED, "gain": {"standard_error": {"edit_psnr": 0.12}}})
    text = stream.getvalue()
    assert "+1.50 ± 0.12 dB" in text and f"python -m learner.infer --run {tmp_path} --compare" in text
    assert f"{tmp_path}/gallery/index.html" in text and f"{tmp_path}/adapter" in text


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("nothing_learnt", "This run learnt nothing: why; and why."),
        ("ruined", "This run ruined its editor; leave its adapter alone: why; and why."),
    ],
)
def test_a_run_of_no_use_says_so_and_offers_nothing_for_use(tmp_path: Path, outcome, said):
    console, stream = report(terminal=False, width=40)
    console.on_start(start(tmp_path))
    console.on_evaluation(measured("final", 19.5))
    console.on_end({**ENDED, "verdict": {"outcome": outcome, "reasons": ["why", "and why"]}})
    text = stream.getvalue()
    assert said in text.splitlines() and "learner.optimizer.lr" in text
    assert "use it" not in text and "try it" not in text and "load_lora_weights" not in text


def test_the_end_names_what_a_person_was_warned_of_first(tmp_path: Path):
    console, stream = report(terminal=False, width=40)
    console.on_start(start(tmp_path))
    told = [
        {"metric": metric, "step": step}
        for metric, step in (("edit_change", 19), ("edit_psnr", 12), ("edit_change", 30))
    ]
    console.on_end({**ENDED, "notifications": told})
    text = stream.getvalue()
    assert "warned   of edit_psnr (step 12), edit_change (step 19); what to do: notifications in" in text
    assert f"adapter  {tmp_path}/adapter" in text and "use it" not in text


def test_an_adapter_that_was_not_measured_is_not_offered_for_use(tmp_path: Path):
    console, stream = report(terminal=False)
    console.on_start(start(tmp_path))
    console.on_end({**ENDED, "final": {"mean": {}}})
    text = stream.getvalue()
    assert "not measured: there were no held-out tasks" in text and f"{tmp_path}/adapter" in text
    assert "use it" not in text and "--compare" not in text  # which edits a held-out task


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path):
    console, stream = report(terminal=False)
    console.on_start(start(tmp_path, first_step=25))
    assert "continuing after step 25" in stream.getvalue()


JUDGE = {
    "editscore_in_rotation": 2.0,
    "editscore_p50_seconds": 2.14,
    "editscore_p95_seconds": 3.4,
    "editscore_error_rate": 0.005,
    "qwen_vl_in_rotation": 1.0,
    "cache_hits": 1.0,
    "cache_misses": 3.0,
}


def test_judges_have_their_words_where_there_are_any():
    line = step_line(
        step(judge=JUDGE, invalid={"editscore_bad_response": 2}, silent=("acd", "x"), floored={"qwen_vl": 3}), 1.0
    )
    assert "editscore p50 2.1 s, p95 3.4 s, errors 0.5%" in line and "qwen_vl not asked yet" in line
    assert "cache hits 25%" in line and "invalid editscore_bad_response 2" in line and "silent acd, x" in line
    assert "groups below rewards.floors: qwen_vl in 3" in line
    plain = step_line(step(), 1.0)
    assert not any(word in plain for word in ("p50", "errors", "cache", "invalid", "silent", "floors"))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notice_is_a_line_of_its_own(tmp_path: Path, terminal: bool):
    console, stream = report(terminal)
    console.on_start(start(tmp_path))
    console.on_step(step(1, judge=JUDGE))
    console.on_notice("judge editscore: 1 server in rotation; new: 3 unanswered")
    console.close()
    assert "judge editscore: 1 server in rotation; new: 3 unanswered" in stream.getvalue()
    assert "errors 0.5%" in stream.getvalue()


def test_a_log_on_a_full_disk_ends_nothing(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        console = ConsoleReport(Console(file=full, force_terminal=False, width=120))
        with pytest.raises(OSError, match="No space"):
            print("x", file=full, flush=True)
        console.on_start(start(tmp_path))
        console.on_step(step())
        console.close()
        full.close = lambda: None  # what is left in its buffer cannot be written either
