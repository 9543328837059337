"""Users' scorers in processes of their own, which may do whatever they like."""

import ast
import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.exits import STOP_SIGNALS
from rewards.plugin import scorer as scorer_module
from rewards.plugin.process import ScorerError
from rewards.plugin.scorer import OwnScorer
from rewards.scorer_api import ScoreInput
from tests.rewards.plugin import users_scorers
from tests.rewards.plugin.inputs import given_of
from tests.rewards.service.running import until

HERE = users_scorers.__name__
PATIENT = 120.0


@contextmanager
def loaded(attribute: str, deadline: float = PATIENT, processes: int = 1):
    scorer = OwnScorer("mine", f"{HERE}:{attribute}", deadline, processes)
    try:
        yield scorer
    finally:
        scorer.close()


def ask(scorer: OwnScorer, given: ScoreInput):
    return asyncio.run(scorer(given))


def values(scores):
    return [one.value for one in scores]


def asking_for(how: int) -> ScoreInput:
    given = given_of(2)
    given.images[0, 0, 0, 0] = how
    return given


def gone(pid: int) -> bool:
    """Whether the process has ended (it may still be waited for by its parent)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_the_example_of_the_documentation():
    given = given_of(3)
    want = [float(np.abs(np.diff(one.astype(float).mean(2), axis=1)).mean() / 255) for one in given.images]
    with loaded("docs_example") as scorer:
        assert values(ask(scorer, given)) == want


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("asynchronous", 0.5),
        ("returns_an_awaitable", 0.5),
        ("called", 1.0),
        ("called.method", 2.0),
        ("async_callable", 0.25),
        ("partial", 0.75),
    ],
)
def test_functions_and_callable_objects_synchronous_or_not(attribute, value):
    with loaded(attribute) as scorer:
        for _ in range(2):
            got = values(ask(scorer, given_of(3)))
            assert got == [value] * 3 and all(type(one) is float for one in got)


def test_the_scorer_sees_all_of_its_input_and_what_it_writes_into_it_nobody_else_sees():
    given = given_of(2)
    task = replace(
        given.task,
        target=given.task.source[::-1],
        regions={"an edge": given.task.edit_mask.copy()},
        caption="a cat",
        meta={"manifest_line": 7, "edit": object()},
    )
    given = ScoreInput(task, given.images, np.array([0.5, 2], dtype=np.float32))
    arrays = [given.images, task.source, task.edit_mask, task.target, given.acd, *task.regions.values()]
    before = [array.copy() for array in arrays]
    with loaded("seen") as scorer:
        error = ask(scorer, given)[0].error
    came = ast.literal_eval(error.removeprefix(f"mine ({HERE}:seen): candidate 0: "))
    assert came == [
        "t",
        task.instruction,
        "a cat",
        {"manifest_line": 7},
        ["an edge"],
        [[one.dtype.str, one.shape, one.tobytes().hex()] for one in before],
    ]
    assert all(np.array_equal(*both) for both in zip(arrays, before, strict=True))


@pytest.mark.parametrize("attribute", ["by_the_first_value", "by_the_first_value_awaited"])
@pytest.mark.parametrize(("how", "words"), [(3, "SystemExit: 3"), (4, "KeyboardInterrupt"), (5, "CancelledError: by")])
def test_what_a_scorer_raises_costs_its_candidates_and_nothing_else(attribute, how, words):
    with loaded(attribute) as scorer:
        before = values(ask(scorer, asking_for(9)))
        for one in ask(scorer, asking_for(how)):
            assert one.error.startswith(f"mine ({HERE}:{attribute}): the scorer failed with {words}")
        assert values(ask(scorer, asking_for(9))) == before != [os.getpid()] * 2 and scorer.alive


@pytest.mark.parametrize(
    ("how", "deadline", "words"),
    [
        (0, PATIENT, "its process ended with exit code 0 before it had responded"),
        (2, PATIENT, "its process ended by SIGSEGV"),
        (1, 2.0, "gave no scores within 2 s (rewards.scorer_deadline), so its process was ended"),
    ],
)
def test_a_scorer_that_exits_crashes_or_hangs_costs_its_candidates_and_is_replaced(how, deadline, words):
    with loaded("by_the_first_value", deadline) as scorer:
        before = values(ask(scorer, asking_for(9)))[0]
        assert [one.error for one in ask(scorer, asking_for(how))] == [f"mine ({HERE}:by_the_first_value): {words}"] * 2
        assert gone(int(before))
        after = values(ask(scorer, asking_for(9)))
        assert after[0] not in (None, before)
        until(lambda: scorer.alive)


def test_one_that_ends_again_and_again_gives_errors_and_comes_back():
    with loaded("by_the_first_value") as scorer:
        for _ in range(3):
            assert all(one.error for one in ask(scorer, asking_for(0)))
        until(lambda: scorer.alive, 60)  # without being asked anything
        assert None not in values(ask(scorer, asking_for(9)))


def test_one_that_ended_while_it_had_nothing_to_do_costs_nothing():
    with loaded("process") as scorer:
        before = int(values(ask(scorer, given_of(1)))[0])
        os.kill(before, signal.SIGKILL)
        os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)  # with all its threads
        assert values(ask(scorer, given_of(1)))[0] not in (None, before)


def test_several_processes_score_at_the_same_time_and_one_that_hangs_holds_up_no_other():
    async def both(scorer):
        hanging = asyncio.create_task(scorer(asking_for(1)))
        await asyncio.sleep(0.2)
        scores = [await scorer(asking_for(9)) for _ in range(3)]
        still = not hanging.done()
        scorer.close()
        return still, scores, await hanging

    with loaded("by_the_first_value", processes=2) as scorer:
        still, scores, hung = asyncio.run(both(scorer))
    assert still and all(None not in values(one) for one in scores)
    assert "the reward pool is closed" in hung[0].error


@pytest.mark.parametrize("stop", STOP_SIGNALS)
def test_requests_to_stop_the_run_that_reach_every_process_cost_no_score(stop):
    with loaded("process_id") as scorer:
        (before,) = values(ask(scorer, given_of(1)))
        os.kill(int(before), stop)
        assert values(ask(scorer, given_of(1))) == [before]


def test_what_a_scorer_has_started_ends_with_it(tmp_path):
    file = tmp_path / "pids"
    given = given_of(1, instruction=str(file))

    async def closed(scorer):
        asked = asyncio.create_task(scorer(given))
        while not file.exists():
            await asyncio.sleep(0.05)
        scorer.close()
        await asked

    with loaded("starts_a_process_and_hangs") as scorer:
        asyncio.run(closed(scorer))
    until(lambda: all(gone(int(pid)) for pid in file.read_text().split()))


@pytest.mark.parametrize("attribute", ["starts_a_process", "starts_a_process_and_exits"])
def test_what_a_scorer_has_started_ends_when_its_process_ends_by_itself(tmp_path, attribute):
    file = tmp_path / "pids"
    with loaded(attribute) as scorer:
        ask(scorer, given_of(1, instruction=str(file)))
        if attribute == "starts_a_process":
            assert not any(gone(int(pid)) for pid in file.read_text().split())
            scorer.close()
        until(lambda: all(gone(int(pid)) for pid in file.read_text().split()))


def test_what_one_had_started_that_ended_while_it_had_nothing_to_do_ends_when_it_is_replaced(tmp_path):
    with loaded("starts_a_process") as scorer:
        ask(scorer, given_of(1, instruction=str(tmp_path / "before")))
        scoring, started = map(int, (tmp_path / "before").read_text().split())
        os.kill(scoring, signal.SIGKILL)
        os.waitid(os.P_PID, scoring, os.WEXITED | os.WNOWAIT)
        assert not gone(started)
        assert None not in values(ask(scorer, given_of(1, instruction=str(tmp_path / "after"))))
        until(lambda: gone(started))


def test_a_thousand_losses_in_a_row_are_not_the_last(monkeypatch):
    monkeypatch.setattr(scorer_module, "LONGEST_BACKOFF", 0.1)
    with loaded("by_the_first_value") as scorer:
        scorer._slots[0]._losses = 5000
        assert all(one.error for one in ask(scorer, asking_for(0)))
        assert None not in values(ask(scorer, asking_for(9)))


@pytest.mark.parametrize(
    "attribute", ["starts_a_process", "starts_a_process_and_hangs", "starts_a_process_and_answers_late"]
)
def test_the_process_of_a_run_that_was_killed_ends_and_all_that_it_has_started(tmp_path, attribute):
    file = tmp_path / "pids"
    code = (
        f"import asyncio; from rewards.plugin.scorer import OwnScorer; "
        f"from tests.rewards.plugin.inputs import given_of; "
        f"scorer = OwnScorer('mine', '{HERE}:{attribute}', 600.0); "
        f"asyncio.run(scorer(given_of(1, instruction={str(file)!r}))); import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) as run:
        try:
            until(file.exists, 60)
            pids = [int(pid) for pid in file.read_text().split()]
            assert not any(gone(pid) for pid in pids)
        finally:
            run.kill()
    until(lambda: all(gone(pid) for pid in pids), 60)


def test_what_a_scorer_prints_where_nobody_reads_and_letters_lack_costs_no_score(tmp_path):
    file = tmp_path / "scores"
    code = (
        f"import asyncio, pathlib; from rewards.plugin.scorer import OwnScorer; "
        f"from tests.rewards.plugin.inputs import given_of; "
        f"scorer = OwnScorer('mine', '{HERE}:prints', 60.0); scores = asyncio.run(scorer(given_of(1))); "
        f"scorer.close(); pathlib.Path({str(file)!r}).write_text(str(scores))"
    )
    unread, pipe = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[3],
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
    finally:
        os.close(pipe)
    assert done.returncode == 0 and "value=1.0" in file.read_text()


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("no_such", f"rewards.scorers.mine: {HERE} has no 'no_such'"),
        ("not_callable", "a function of one ScoreInput, got int 3"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_key(attribute, words):
    with pytest.raises(ScorerError) as caught, loaded(attribute):
        pass
    assert words in str(caught.value)


def test_a_module_that_exits_while_it_is_imported_is_refused_with_its_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exits_at_import.py").write_text("import os; os._exit(5)\n")
    with pytest.raises(ScorerError, match=r"scorers\.mine: exits_at_import:f: its process ended with exit code 5"):
        OwnScorer("mine", "exits_at_import:f", PATIENT)


def test_a_group_of_large_images_arrives_whole():
    given = given_of(3, 1024, 1024)
    with loaded("docs_example") as scorer:
        scorer_values = values(ask(scorer, given))
    assert scorer_values == users_scorers.docs_example(given).tolist()
