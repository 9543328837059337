"""Event logs of real runs hold every promise: finished, resumed, cut off anywhere, copied, or still running."""

import shutil

from learner.audit import audited
from learner.audit.report import main
from learner.run import run
from locus.version import __version__
from tests.learner.audit.conftest import SMALL
from tests.learner.audit.doctor import changed, forge, numbers, read, told
from tests.learner.tiny_run import tiny_run


def test_a_run_that_was_interrupted_and_resumed_holds_every_promise(resumed):
    audit = audited(resumed / "events.jsonl")
    assert not any(audit.faults.values()), audit.faults
    assert audit.finished and audit.end == "finished after 4 of 4 steps"
    assert audit.counts["undone by a resume"] == 2 and audit.counts["resumes"] == 1
    assert len(audit.trained) == 8 and audit.counts["trained"] == 10 and audit.counts["replayed"] == 2
    # Counters go on over the resume: two of the ten groups were undone, and came back from the spool.
    steps = [event for event in read(resumed) if event["event"] == "step"]
    assert [step["counters"]["trained"] for step in steps] == [2, 4, 6, 6, 8]
    assert [step["counters"]["replayed"] for step in steps] == [0, 0, 0, 2, 2]


def test_logs_of_versions_that_did_not_name_themselves_hold(resumed, tmp_path):
    events = read(resumed)
    assert {event["locus_version"] for event in events if event["event"] in ("started", "resumed")} == {__version__}
    older = [{key: value for key, value in event.items() if key != "locus_version"} for event in events]
    for mixed in (older, [*older[: len(older) // 2], *events[len(older) // 2 :]]):
        assert told(forge(tmp_path, mixed)) == "finished after 4 of 4 steps"


def test_a_run_with_redone_attempts_and_tasks_that_went_bad_holds(redone):
    names = {event["event"] for event in read(redone)}
    attempts = {event["group"].rsplit(".")[2] for event in read(redone) if event["event"] == "trained"}
    assert {"rejected", "requeued", "task_skipped"} <= names and {"0", "1"} <= attempts
    assert told(redone / "events.jsonl") == "finished after 5 of 5 steps"


def test_a_run_with_skipped_steps_holds_and_so_does_one_that_went_back(skipped, went_back):
    assert len(numbers(read(skipped), "step_skipped")) == 1 and len(numbers(read(went_back), "step_skipped")) == 5
    assert len(numbers(read(went_back), "rolled_back")) == 1
    assert told(skipped / "events.jsonl") == "finished after 4 of 4 steps"
    assert told(went_back / "events.jsonl") == "finished after 9 of 9 steps"


def test_a_log_that_a_crash_cut_off_holds_and_is_not_called_finished(resumed, tmp_path):
    events = read(resumed)
    for length in range(1, len(events)):
        audit = audited(forge(tmp_path, events[:length]))
        assert not any(audit.faults.values()), (length, audit.faults)
        assert not audit.finished and audit.end.startswith("not finished: ")


def test_a_run_that_was_copied_and_goes_on_under_another_name_holds(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "run", SMALL)
    run(config)
    shutil.copytree(tmp_path / "run", tmp_path / "fork")
    longer = tiny_run(tiny_kontext, tmp_path, "fork", {**SMALL, "learner": {"steps": 4}})
    # A crash cut off the last line of the copy, and the process that goes on ended it.
    with (tmp_path / "fork" / "events.jsonl").open("ab") as file:
        file.write(f'{{"seq": {len(read(tmp_path / "run"))}, "time": 17'.encode())
    run(longer, resume=True)
    assert told(tmp_path / "fork" / "events.jsonl") == "finished after 4 of 4 steps"
    (resume,) = [event for event in read(tmp_path / "fork") if event["event"] == "resumed"]
    assert resume["changed"] == ["learner.steps"] and resume["step"] == 3


def test_the_command_tells_broken_unfinished_and_finished_runs_apart(resumed, tmp_path, capsys):
    assert main([str(resumed)]) == 0
    said = capsys.readouterr().out
    assert "holds" in said and "broken" not in said and "not finished" not in said
    events = read(resumed)
    forge(tmp_path, events[: numbers(events, "failed")[0] + 1])
    assert main([str(tmp_path)]) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "not finished" in said and "after 3 of 4 steps" in said and "broken" not in said
    forge(tmp_path, changed(events, "trained", version=9))
    assert main([str(tmp_path)]) == 1
    assert "broken" in capsys.readouterr().out
