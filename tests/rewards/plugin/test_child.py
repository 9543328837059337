"""Loading a user's function; what it does when it is called is tested with its process."""

import sys

import pytest

from rewards.plugin.child import LoadError, found
from tests.rewards.plugin import users_scorers

HERE = users_scorers.__name__


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("no_such_package.x:f", "no_such_package.x cannot be imported (ModuleNotFoundError"),
        (f"{HERE}:no_such", "has no 'no_such'"),
        (f"{HERE}:called.no_such", "has no 'called.no_such'"),
        (f"{HERE}:not_callable", "a function of one ScoreInput, got int 3"),
        (f"{HERE}:Scorers", "a function of one ScoreInput, got type"),
    ],
)
def test_a_path_that_leads_nowhere_is_a_sentence_that_names_the_key(dotted, words):
    with pytest.raises(LoadError) as caught:
        found("sharpness", dotted)
    assert str(caught.value).startswith("rewards.scorers.sharpness: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(:", "cannot be imported (SyntaxError"),
        ("import no_such_library", "cannot be imported (ModuleNotFoundError"),
        ("1 / 0", "failed while it was imported with ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(4)", "failed while it was imported with SystemExit: 4"),
        ("raise KeyboardInterrupt", "failed while it was imported with KeyboardInterrupt"),
        ("import os; os.no_such", "failed while it was imported with AttributeError"),
    ],
)
def test_whatever_the_users_module_does_when_it_is_imported_is_a_sentence(code, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_users_module.py").write_text(code + "\n")
    monkeypatch.delitem(sys.modules, "a_users_module", raising=False)
    with pytest.raises(LoadError) as caught:
        found("mine", "a_users_module:f")
    assert str(caught.value).startswith("rewards.scorers.mine: a_users_module ") and words in str(caught.value)
