"""The code version of a run: our sources, the libraries, and the modules that its configuration names."""

import sys

import pytest

from configs.load import load_config
from learner.state import provenance
from learner.state.provenance import code_fingerprint


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder on the path, forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    provenance._module.cache_clear()
    yield tmp_path
    provenance._module.cache_clear()
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_configuration_names_the_modules_of_its_own_method_and_scorers():
    assert load_config([]).own_modules == ()
    flags = ["--algorithm.type", "custom", "--algorithm.method", "a_lab.methods:Mine"]
    flags += ["--rewards.scorers", "{one: 'a_lab.scorers:one', two: 'a_lab.scorers:two'}"]
    flags += ["--rewards.weights", "{edit_score: 1, one: 1, two: 1}"]
    assert load_config(flags).own_modules == ("a_lab.methods", "a_lab.scorers")


def test_a_changed_module_changes_the_fingerprint_for_a_process_that_begins_later(modules):
    (modules / "lab").mkdir()
    (modules / "lab" / "mine.py").write_text("raise AssertionError('it is read, not run')\n")
    before = code_fingerprint(("lab.mine",))
    assert {name: value for name, value in before.items() if name != "module lab.mine"} == code_fingerprint()
    (modules / "lab" / "mine.py").write_text("changed = True\n")
    assert code_fingerprint(("lab.mine",)) == before, "a process runs what it has read"
    provenance._module.cache_clear()
    after = code_fingerprint(("lab.mine",))
    assert {name for name in before if before[name] != after[name]} == {"module lab.mine"}


@pytest.mark.parametrize("name", ["no_such_module", "no_such.package", "builtins"])
def test_a_module_without_a_file_is_told_apart_from_one_with(modules, name):
    assert code_fingerprint((name,))[f"module {name}"] == "absent"
