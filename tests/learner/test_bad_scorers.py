"""A run in one process whose scorer misbehaves in every way goes on, and loses nothing but the scores (F34)."""

from learner.audit import audited
from learner.run import run
from learner.state.event_log import read_events
from tests.learner.tiny_run import tiny_run

KINDS = ("exits", "raises", "hangs", "calls_sys_exit", "is_interrupted", "writes")
SCORER = f"""
import os, pathlib, sys, time

def mine(given):
    for kind in {KINDS!r}:
        try:
            (pathlib.Path(FOLDER) / kind).touch(exist_ok=False)
        except FileExistsError:
            continue
        if kind == "exits":
            os._exit(0)
        if kind == "raises":
            raise RuntimeError("no")
        if kind == "hangs":
            time.sleep(10_000)
        if kind == "calls_sys_exit":
            sys.exit(3)
        if kind == "is_interrupted":
            raise KeyboardInterrupt
        given.images.setflags(write=True)
        given.images[:] = 0
        given.task.source[:] = 255
    return list(range(len(given.images)))
"""


def test_a_scorer_that_misbehaves_in_every_way_costs_its_candidates_and_ends_no_run(
    tiny_kontext, tmp_path, monkeypatch
):
    (tmp_path / "a_bad_scorer.py").write_text(SCORER.replace("FOLDER", repr(str(tmp_path))))
    monkeypatch.syspath_prepend(tmp_path)
    summary = run(
        tiny_run(
            tiny_kontext,
            tmp_path,
            "run",
            {
                "rewards": {
                    "weights": {"mine": 1.0, "background_psnr": 0.1},
                    "scorers": {"mine": "a_bad_scorer:mine"},
                    "scorer_deadline": 2.0,
                },
                "learner": {"steps": 2},
                "cluster": {"max_attempts": 9},
            },
        )
    )
    assert all((tmp_path / kind).exists() for kind in KINDS)  # it did all of it
    assert (summary["counters"]["trained"], summary["counters"]["rejected"]) == (4, len(KINDS) - 1)
    rejected = [e["reason"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "rejected"]
    for reason, words in zip(
        rejected,
        ("exit code 0", "RuntimeError: no", "rewards.scorer_deadline", "SystemExit: 3", "KeyboardInterrupt"),
        strict=True,
    ):
        assert words in reason and "mine (a_bad_scorer:mine)" in reason
    # What it wrote had no effect elsewhere: all candidates of all trained groups have finite scores that differ.
    assert summary["reward_std"]["first_step"] > 0
    faults = audited(tmp_path / "run" / "events.jsonl").faults
    assert not any(faults.values()), faults
