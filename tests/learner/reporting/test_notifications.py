"""Which events are notifications, and when zero-variance groups raise an alarm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.reporting.notifications import ZERO_VARIANCE_STEPS, ZeroVarianceAlarm, notice, waiting
from learner.reporting.reporter import Reporter
from learner.state.event_log import EventLog, read_events
from tests.learner.test_loop import Watcher


@pytest.mark.parametrize(
    ("event", "fields", "sentence"),
    [
        (
            "judges_awaited",
            {"judges": ["editscore", "qwen_vl"], "seconds": 600.0},
            "waiting for judges: editscore, qwen_vl (at most 600 s)",
        ),
        (
            "judge_server_started",
            {"judge": "editscore", "replica": 1, "url": "u", "pid": 7, "seconds": 71.3},
            "judge editscore: server 1 is up (71 s)",
        ),
        (
            "judge_server_lost",
            {"judge": "editscore", "replica": 1, "pid": 7, "reason": "it was killed", "again_in": 2.0},
            "judge editscore: server 1 is lost: it was killed; it is started again in 2 s",
        ),
        ("judge_ready", {"judge": "editscore", "servers": 1}, "judge editscore: 1 server responded to a test image"),
        (
            "judge_trouble",
            {"judge": "editscore", "servers": 1, "unanswered": 3, "refused": 0, "bad": 2},
            "judge editscore: 1 server in rotation; new: 3 unanswered, 2 bad",
        ),
        (
            "judge_trouble",
            {"judge": "qwen_vl", "servers": 2, "unanswered": 0, "refused": 0, "bad": 0},
            "judge qwen_vl: 2 servers in rotation",
        ),
        ("cache_trouble", {"faults": 2}, "the cache of judge scores does not respond; scoring goes on without it"),
        ("cache_trouble", {"faults": 0}, "the cache of judge scores responds again"),
        ("fleet_resized", {"before": 1, "after": 4}, "rollout workers: 1 -> 4"),
        ("resize_refused", {"reason": "no number"}, "the number of rollout workers stays: no number"),
        (
            "worker_given_up",
            {"slot": 1, "losses": 6, "left": 3, "reason": "it could not start"},
            "a rollout worker was lost 6 times in a row and is given up, 3 are left; the last time: it could not start",
        ),
        (
            "weights_repushed",
            {"pid": 7, "version": 3, "reason": "refused"},
            "a rollout worker did not take over version 3 and gets it again: refused",
        ),
        ("alarm", {"sentence": "zero variance"}, "zero variance"),
        ("step", {"reward_mean": 1.0}, None),
    ],
)
def test_sentences(event, fields, sentence):
    assert notice(event, fields) == sentence


def test_every_event_is_in_the_diary_and_some_are_told(tmp_path):
    watcher = Watcher()
    with EventLog(tmp_path / "events.jsonl") as events:
        announce = Reporter(events, [watcher]).announce
        announce("judge_ready", judge="editscore", servers=2)
        announce("worker_started", pid=1, version=0)
    assert [event["event"] for event in read_events(tmp_path / "events.jsonl")] == ["judge_ready", "worker_started"]
    assert watcher.notices == ["judge editscore: 2 servers responded to a test image"]


@given(st.lists(st.sampled_from([0.0, 0.9, 0.91, 1.0]), max_size=40))
def test_an_alarm_begins_each_stretch_of_flat_steps(shares):
    alarm = ZeroVarianceAlarm(("editscore",))
    told = [alarm.sentence(share, 0.0) is not None for share in shares]
    high = 0
    for share, now in zip(shares, told, strict=True):
        high = high + 1 if share > 0.9 else 0
        assert now == (high == ZERO_VARIANCE_STEPS)


@pytest.mark.parametrize(
    ("edit_shares", "expected"),
    [
        (
            [1.0] * ZERO_VARIANCE_STEPS,
            (
                "no reward for the edit (editscore and clip_text) varied by more than its floor",
                "Look at the scores of editscore and clip_text",
                "rewards.floors",
            ),
        ),
        ([1.0] * (ZERO_VARIANCE_STEPS - 1) + [0.5], ("all got about the same reward", "lower rewards.min_std")),
    ],
)
def test_the_alarm_says_what_is_flat(edit_shares, expected):
    alarm = ZeroVarianceAlarm(("editscore", "clip_text"))
    *early, sentence = [alarm.sentence(1.0, share) for share in edit_shares]
    assert early == [None] * (ZERO_VARIANCE_STEPS - 1)
    assert all(words in sentence for words in (*expected, "more than 90% of the groups", "algorithm.alpha_edit"))


def test_preservation_terms_that_stay_off_are_told_of_once_with_all_that_keeps_them_off():
    told = [waiting(done, 40, 0.0) for done in range(1, 12)]
    assert [done for done, sentence in enumerate(told, 1) if sentence] == [ZERO_VARIANCE_STEPS]
    assert "candidates of different reward" in told[ZERO_VARIANCE_STEPS - 1]
    assert "more than 0.001 of the surrogate's" in told[ZERO_VARIANCE_STEPS - 1]
    assert waiting(ZERO_VARIANCE_STEPS, 40, 2.5) is waiting(ZERO_VARIANCE_STEPS, 40, None) is None
