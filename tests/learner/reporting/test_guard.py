"""Reports that raise, exit or leave a stream broken end no run."""

import pytest
import structlog

from learner.reporting.alarm_monitor import AlarmMonitor
from learner.reporting.guard import Harmless
from learner.run import run
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

CALLS = ("on_start", "on_notice", "on_group", "on_step", "on_evaluation", "on_end")


class Broken:
    """Every call raises, each something else."""

    def __init__(self):
        self.called = []
        errors = [
            BrokenPipeError(32, "Broken pipe"),
            UnicodeEncodeError("ascii", "±", 0, 1, "no such letter"),
            SystemExit(1),
            ZeroDivisionError("division by zero"),
            AssertionError(),
            MemoryError(),
        ]
        for name, error in zip(CALLS, errors, strict=True):
            setattr(self, name, self._raising(name, error))

    def _raising(self, name, error):
        def call(*_):
            self.called.append(name)
            raise error

        call.__name__ = name
        return call


def test_reports_that_raise_end_no_run(tiny_kontext, tmp_path):
    broken, watcher = Broken(), Watcher()
    settings = {"learner": {"steps": 2}, "checkpoint": {"every": 1}}
    with structlog.testing.capture_logs() as said:
        summary = run(tiny_run(tiny_kontext, tmp_path, "run", settings), observers=[broken, watcher])
    assert set(broken.called) >= {"on_start", "on_group", "on_step", "on_evaluation", "on_end"}
    assert broken.called.count("on_step") == 2  # it is called again
    assert summary["counters"]["trained"] == 4 and (tmp_path / "run" / "summary.json").exists()
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())][-1] == "step_000002"
    failed = [line for line in said if line["event"] == "report_failed"]
    assert sorted(line["call"] for line in failed) == sorted(set(broken.called))  # each is said once
    assert "BrokenPipeError: [Errno 32] Broken pipe" in [line["reason"] for line in failed]
    assert [record.step for record in watcher.steps] == [1, 2]  # the reports after it hear everything


def test_nor_does_one_that_cannot_be_made(tiny_kontext, tmp_path, monkeypatch):
    class Unmade(AlarmMonitor):
        def __init__(self, *_):
            raise MemoryError("too long")

    monkeypatch.setattr("learner.run.AlarmMonitor", Unmade)
    with structlog.testing.capture_logs() as said:
        summary = run(tiny_run(tiny_kontext, tmp_path, "run", {"learner": {"steps": 1}}))
    assert summary["counters"]["trained"] == 2
    (failed,) = [line for line in said if line["event"] == "report_failed"]
    assert (failed["report"], failed["call"], failed["reason"]) == ("Unmade", "__init__", "MemoryError: too long")


def test_a_request_to_stop_is_no_fault_of_a_report():
    class Interrupted:
        def on_notice(self, sentence):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Harmless(Interrupted()).on_notice("x")
