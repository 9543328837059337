"""The one error type for everything that can be wrong in a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """An invalid configuration; `faults` holds one sentence per fault, and the message all of them."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or an empty string.

    Dotted keys are compared whole and by their last part, so `learner.lr` finds `learner.optimizer.lr`.
    """
    candidates = list(known)
    # Among keys with the same last part, prefer the named section, then the shortest path.
    same_leaf = [path for path in candidates if path.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    if same_leaf:
        return max(same_leaf, key=lambda path: (path.split(".")[0] == word.split(".")[0], -len(path)))
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.75)
    if close:
        return close[0]
    leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(candidates)}
    close = difflib.get_close_matches(word.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.75)
    return leaves[close[0]] if close else ""


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping of keys to values",
    "model": "a section of keys and values",
    "tuple": "a list",
}


def expectation(error: ErrorDetails) -> str:
    """What one pydantic error expected, as words that follow "expected"."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    for name, words in _KINDS.items():
        if kind.startswith(name):
            return words
    return error["msg"]
