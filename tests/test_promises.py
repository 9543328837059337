"""The tables of faults and promises name tests that there are, and the targets that run them."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.documents import ROOT, page

FAULTS = page("docs/faults.md")
PROMISED = page("docs/promises.md")


def rows(table: str, letter: str) -> dict[str, list[str]]:
    """Cells by number, such as F7, of a table whose first cells are numbers."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {cells[0]: cells[1:] for cells in found if re.fullmatch(rf"{letter}\d+", cells[0])}


def named(cell: str) -> list[tuple[str, str]]:
    """(file below tests/, function) of every test in a cell."""
    return re.findall(r"([\w/]+\.py)::(test_\w+)", cell)


@cache
def module(file: str) -> ast.Module:
    return ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))


def function(file: str, name: str) -> ast.FunctionDef | None:
    return next((node for node in module(file).body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def target(file: str, name: str) -> str:
    """What runs a test: where it lies, or the mark that all of it or its module has."""
    if file.startswith("clusters/"):
        return "test-cluster"
    if not Path(file).name.startswith("test_"):  # pytest collects it only where it is named
        return "test-kills"
    found = function(file, name)
    assert found is not None
    of_the_module = [ast.unparse(node) for node in module(file).body if ast.unparse(node).startswith("pytestmark")]
    fault = "pytest.mark.fault" in map(ast.unparse, found.decorator_list) or "mark.fault" in "".join(of_the_module)
    return "test-faults" if fault else "test"


def test_every_fault_has_a_row():
    numbers = [int(number[1:]) for number in rows(FAULTS, "F")]
    assert numbers == sorted(set(numbers)) and set(range(1, 29)) <= set(numbers)


@pytest.mark.parametrize(("number", "cells"), rows(FAULTS, "F").items())
def test_every_fault_is_tested_by_tests_that_there_are_and_by_the_targets_that_are_named(number, cells):
    tests = named(cells[2])
    assert tests and [one for one in tests if function(*one) is None] == []
    assert list(dict.fromkeys(target(*one) for one in tests)) == re.findall(r"`([\w-]+)`", cells[3])


def test_the_targets_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {name for cells in rows(FAULTS, "F").values() for name in re.findall(r"`([\w-]+)`", cells[3])}
    for name in named | {"chaos"}:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_promise_has_a_row_with_a_test_that_there_is():
    promises = rows(PROMISED, "P")
    assert list(promises) == [f"P{number}" for number in range(1, 14)]
    for number, cells in promises.items():
        links = re.findall(r"\[`(test_\w+)`\]\(\.\./tests/([\w/]+\.py)\)", cells[1])
        assert links and [one for one in links if function(one[1], one[0]) is None] == [], number
