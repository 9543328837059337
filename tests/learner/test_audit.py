"""The audit holds on diaries of real runs, broken and resumed ones too, and fails on every doctored one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.audit import audited, main
from learner.events import read_events
from learner.train import run
from tests.learner.test_train import Interrupt, Interrupted
from tests.learner.tiny_run import tiny_run


@pytest.fixture(scope="module")
def folder(tiny_kontext, tmp_path_factory):
    """A run of four steps that was interrupted after the third and resumed from the second."""
    folder = tmp_path_factory.mktemp("audited")
    config = tiny_run(tiny_kontext, folder, "run", {"data": {"held_out_tasks": 1}, "report": {"gallery_tasks": 0}})
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(3)])
    run(config, resume=True)
    return folder / "run"


@pytest.fixture(scope="module")
def diary(folder):
    return list(read_events(folder / "events.jsonl"))


def broken(events) -> set[str]:
    return {promise for promise, faults in audited(events).faults.items() if faults}


def renumbered(events):
    """As a forger would: the line numbers are right again."""
    return [{**event, "seq": number} for number, event in enumerate(events)]


def at(diary, name, nth=0) -> int:
    return [i for i, event in enumerate(diary) if event["event"] == name][nth]


def changed(diary, where, **fields):
    return [{**event, **fields} if i == where else event for i, event in enumerate(diary)]


def test_a_run_that_was_interrupted_and_resumed_holds_every_promise(diary):
    audit = audited(diary)
    assert not any(audit.faults.values()), audit.faults
    assert audit.counts["undone by a resume"] == 2 and audit.counts["resumes"] == 1
    assert len(audit.trained) == 8 and audit.counts["trained"] == 10 and audit.counts["replayed"] == 2
    # Counters go on over the resume: two of the ten groups were undone, and came back from the spool.
    assert [event["counters"]["trained"] for event in diary if event["event"] == "step"] == [2, 4, 6, 6, 8]
    assert [event["counters"]["replayed"] for event in diary if event["event"] == "step"] == [0, 0, 0, 2, 2]


def test_a_diary_that_a_crash_cut_off_holds(diary):
    for length in range(1, len(diary)):
        assert broken(diary[:length]) == set(), diary[length - 1]


@given(st.data())
def test_a_line_that_is_missing_doubled_or_moved_is_seen(diary, data):
    where = data.draw(st.integers(0, len(diary) - 2))
    assert "log" in broken(diary[:where] + diary[where + 1:])
    assert "log" in broken([*diary[: where + 1], *diary[where:]])
    assert "log" in broken([*diary[:where], diary[where + 1], diary[where], *diary[where + 2:]])


@pytest.mark.parametrize("name", [
    "leased", "generated", "spooled", "replayed", "trained", "published", "resumed"])
def test_a_missing_line_is_seen_even_when_the_numbers_are_forged(diary, name):
    missed = [where for where, event in enumerate(diary)
              if event["event"] == name and not broken(renumbered(diary[:where] + diary[where + 1:]))]
    # A publication under which nothing was leased before the process ended has left no other trace.
    for where in missed:
        following = [event["event"] for event in diary[where + 1:]]
        until = min(following.index(end) for end in ("failed", "finished") if end in following)
        assert name == "published" and "leased" not in following[:until]
    assert len(missed) == (2 if name == "published" else 0)


@pytest.mark.parametrize(("name", "fields", "promise"), [
    ("trained", {"version": -1}, "P3"),
    ("trained", {"version": 9}, "P3"),
    ("generated", {"version": 7}, "P4"),
    ("leased", {"version": 7}, "P4"),
    ("leased", {"group": "000009.000.0"}, "P2"),
    ("trained", {"group": "000001.000.0"}, "P1"),
    ("step", {"step": 2}, "P1"),
    ("finished", {"step": 3}, "P1"),
    ("published", {"version": 1}, "P4"),
    ("trained", {"step": "one"}, "log"),
    ("trained", {"event": "rejected"}, "P1"),
    ("replayed", {"version": 1}, "P4"),
    ("replayed", {"group": "000009.000.0"}, "P4"),
    ("replayed", {"event": "leased"}, "P2"),
    ("spooled", {"group": "000009.000.0"}, "P5"),
])
def test_a_doctored_line_breaks_its_promise(diary, name, fields, promise):
    assert promise in broken(changed(diary, at(diary, name), **fields))


@pytest.mark.parametrize(("nth", "wrong"), [
    (0, {"trained": 1, "rejected": 1}), (0, {"trained": 1, "requeued": 1}), (0, {"leased": 3, "in_flight": 1}),
    (0, {"leased": 3, "trained": 3}), (0, {"replayed": 1}),
    (3, {"replayed": 0})])  # of the step after the resume, whose two groups came from the spool
def test_counters_that_add_up_and_are_not_those_of_the_lines_are_seen(diary, nth, wrong):
    where = at(diary, "step", nth)
    counters = {**diary[where]["counters"], **wrong}
    assert counters["leased"] == sum(counters[name] for name in ("trained", "rejected", "requeued", "in_flight"))
    assert counters != diary[where]["counters"]
    assert broken(changed(diary, where, counters=counters)) == {"P2"}


def test_other_weights_under_the_same_version_after_a_resume_are_seen(diary):
    after = next(i for i, e in enumerate(diary) if e["event"] == "published" and i > at(diary, "resumed"))
    assert broken(changed(diary, after, fingerprint="0" * 32)) == {"P4"}


def test_a_group_trained_on_twice_is_seen(diary):
    where = at(diary, "trained")
    assert {"P1", "P2"} <= broken(renumbered([*diary[: where + 1], *diary[where:]]))


def test_the_command_says_what_is_broken(folder, diary, tmp_path, capsys):
    assert main([str(folder)]) == 0
    assert "holds" in capsys.readouterr().out
    (tmp_path / "events.jsonl").write_text("".join(
        json.dumps(e) + "\n" for e in changed(diary, at(diary, "trained"), version=9)))
    assert main([str(tmp_path)]) == 1
    assert "broken" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
