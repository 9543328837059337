import asyncio
import functools
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.result import Score
from rewards.scorers.plugin import ScorerError, checked, load_scorer
from tests.rewards.scorers.test_editscore import given_of

HERE = __name__  # this module is the user's


def docs_example(given):
    grey = given.images.mean(axis=3)
    return np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2)) / 255


async def asynchronous(given):
    await asyncio.sleep(0)
    return [0.5] * len(given.images)


def returns_an_awaitable(given):
    return asynchronous(given)


class Counting:
    def __init__(self):
        self.threads = []

    def __call__(self, given):
        self.threads.append(threading.get_ident())
        return [1] * len(given.images)

    def method(self, given):
        return [2.0] * len(given.images)


class AsyncCallable:
    async def __call__(self, given):
        return [0.25] * len(given.images)


counting = Counting()
async_callable = AsyncCallable()
partial = functools.partial(lambda weight, given: torch.full((len(given.images),), weight), 0.75)
not_callable = 3


def writes_into_its_input(given):
    for array in (given.images, given.task.source, given.task.edit_mask, given.task.target, given.acd,
                  *given.task.regions.values()):
        array.setflags(write=True)
        array[:] = 0
    return [0.0] * len(given.images)


def fails(given):
    raise KeyError("sharp")


ticked = threading.Event()


def slow(given):
    assert ticked.wait(30)
    return [0.0] * len(given.images)


def run(attribute, given=None):
    return asyncio.run(load_scorer("mine", f"{HERE}:{attribute}")(given or given_of(3)))


def values(scores):
    return [one.value for one in scores]


def test_the_example_of_the_documentation():
    given = given_of(3)
    want = [float(np.abs(np.diff(one.astype(float).mean(2), axis=1)).mean() / 255) for one in given.images]
    assert values(run("docs_example", given)) == pytest.approx(want)


@pytest.mark.parametrize(("attribute", "value"), [
    ("asynchronous", 0.5), ("returns_an_awaitable", 0.5), ("counting", 1.0), ("counting.method", 2.0),
    ("async_callable", 0.25), ("partial", 0.75),
])
def test_functions_and_callable_objects_synchronous_or_not(attribute, value):
    got = run(attribute)
    assert values(got) == [value] * 3 and all(type(one) is float for one in values(got))


def test_a_synchronous_scorer_runs_in_a_thread_of_its_own():
    run("counting")
    assert counting.threads and threading.get_ident() not in counting.threads

    async def both():
        task = asyncio.create_task(load_scorer("mine", f"{HERE}:slow")(given_of(1)))
        for _ in range(4):
            await asyncio.sleep(0.01)
        ticked.set()  # the loop goes on while the scorer waits for it
        return await task

    assert values(asyncio.run(both())) == [0.0]


def test_what_a_scorer_writes_into_its_input_nobody_else_sees():
    given = replace(given_of(2), acd=np.array([0.5, 2], dtype=np.float32))
    task = replace(given.task, target=given.task.source.copy(), regions={"edge": given.task.edit_mask.copy()})
    given = replace(given, task=task)
    arrays = (given.images, task.source, task.edit_mask, task.target, given.acd, *task.regions.values())
    before = [array.copy() for array in arrays]
    assert values(run("writes_into_its_input", given)) == [0.0, 0.0]
    assert all(np.array_equal(*both) for both in zip(arrays, before, strict=True))


def test_an_exception_of_the_scorer_passes_through():
    with pytest.raises(KeyError, match="sharp"):
        run("fails")


@pytest.mark.parametrize("returned", [
    [0, 1.5, -2], (0, 1.5, -2), np.array([0, 1.5, -2]), np.array([0, 1.5, -2], dtype=np.float32),
    torch.tensor([0, 1.5, -2], requires_grad=True), torch.tensor([0, 1.5, -2], dtype=torch.bfloat16),
    [np.float64(0), torch.tensor(1.5), np.array(-2)], [Score(value=0.0), 1.5, np.int8(-2)],
])
def test_numbers_of_all_kinds(returned):
    assert values(checked(returned, 3, "mine")) == [0.0, 1.5, -2.0]


@pytest.mark.parametrize("returned", [
    None, 0.5, "abc", b"abc", {"a": 1, "b": 2, "c": 3}, {1, 2, 3}, iter([1, 2, 3]), Score(value=1.0), [], [1, 2],
    [1, 2, 3, 4], np.array(1.0), np.zeros((2, 3)), np.zeros(4), torch.zeros(()), torch.zeros(0), object(),
], ids=repr)
def test_another_count_or_no_list_is_an_error_for_every_candidate(returned):
    got = checked(returned, 3, "mine (m:f)")
    assert len(got) == 3
    for one in got:
        assert one.value is None and one.error.startswith("mine (m:f): expected 3 numbers, one per candidate; seen ")


@pytest.mark.parametrize("bad", [
    math.nan, math.inf, -math.inf, 1e160, 1e300, -1e308, None, "0.5", True, np.True_, 1j, [0.5], np.array([0.5]),
    10**400, {}, np.nan, torch.tensor(math.nan),
], ids=lambda bad: f"{bad!r:.30}")
def test_what_is_no_finite_number_is_an_error_of_its_candidate(bad):
    got = checked([0.5, bad, 1], 3, "mine (m:f)")
    assert values(got) == [0.5, None, 1.0]
    assert got[1].error.startswith("mine (m:f): candidate 1: expected a ") and len(got[1].error) < 200


def test_a_column_of_scores_is_not_taken_for_scores():
    assert all(one.error for one in checked(np.zeros((3, 1)), 3, "mine"))


def test_an_error_that_the_scorer_gives_names_it():
    got = checked([Score(error="no face found"), 1.0], 2, "mine (m:f)")
    assert got == (Score(error="mine (m:f): candidate 0: no face found"), Score(value=1.0))


@pytest.mark.parametrize(("dotted", "words"), [
    ("no_such_package.x:f", "no_such_package.x cannot be imported (ModuleNotFoundError"),
    (f"{HERE}:no_such", "has no 'no_such'"), (f"{HERE}:counting.no_such", "has no 'counting.no_such'"),
    (f"{HERE}:not_callable", "a function of one ScoreInput, seen int 3"),
    (f"{HERE}:Counting", "a function of one ScoreInput, seen type"),
])
def test_a_path_that_leads_nowhere_is_a_sentence_that_names_the_key(dotted, words):
    with pytest.raises(ScorerError) as caught:
        load_scorer("sharpness", dotted)
    assert str(caught.value).startswith("rewards.scorers.sharpness: ") and words in str(caught.value)


def test_faults_of_the_users_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_syntax_scorer.py").write_text("def f(:\n")
    (tmp_path / "bad_import_scorer.py").write_text("import no_such_library\n")
    (tmp_path / "bad_code_scorer.py").write_text("1 / 0\n")
    for module, words in (("bad_syntax_scorer", "SyntaxError"), ("bad_import_scorer", "no_such_library")):
        with pytest.raises(ScorerError, match=words) as caught:
            load_scorer("mine", f"{module}:f")
        assert str(caught.value).startswith("rewards.scorers.mine: ")
    with pytest.raises(ZeroDivisionError):
        load_scorer("mine", "bad_code_scorer:f")
