"""Deadlines use the monotonic clock: the wall clock is read only where a date is recorded."""

import ast

import pytest

from tests.test_import_direction import modules

WALL = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "date.today",
    "time.localtime",
    "time.gmtime",
    "time.strftime",
}
TELLS_A_DATE = {
    "cluster.scale",  # the time of a request
    "cluster.supervise.__main__",  # beside each line that it prints
    "editing.shapes.pretrain.card",  # on the card of a model
    "evaluation.speed.__main__",  # in the file of results
    "learner.state.event_log",  # in each line of the event log
    "rewards.judge.replica",  # servers may say by date when to come back
}


def reads_the_wall_clock(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Call) and ast.unparse(node.func) in WALL)
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and {"time", "time_ns"} & {alias.name for alias in node.names}
        )
        for node in ast.walk(tree)
    )


def test_a_clock_that_is_set_changes_no_deadline():
    assert {module for module, tree in modules() if reads_the_wall_clock(tree)} - TELLS_A_DATE == set()


@pytest.mark.parametrize("source", ["import time\nend = time.time() + 5", "from time import time", "datetime.now(UTC)"])
def test_the_check_sees_a_wall_clock(source):
    assert reads_the_wall_clock(ast.parse(source))


def test_the_check_lets_the_other_clock_be():
    assert not reads_the_wall_clock(ast.parse("import time\ntime.monotonic()\ntime.perf_counter()\ntime.sleep(1)"))
