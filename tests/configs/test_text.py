"""Counts in our sentences; text of others in them: whatever it is, one printable line of bounded length."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.text import counted, one_line, shown, told


class Lines:
    def __repr__(self):
        return "a\nb\x1b[31m"


class Unreadable(Exception):
    def __str__(self):
        raise ValueError("no")


def test_one_of_a_thing_is_one():
    assert [counted(number, "held-out task") for number in (0, 1, 12)] == [
        "0 held-out tasks",
        "1 held-out task",
        "12 held-out tasks",
    ]


@given(st.text(max_size=200), st.integers(3, 80))
@example("\x1b[2J\u202e\u2028\ud800", 80)
def test_every_text_becomes_one_printable_line_of_bounded_length(text, longest):
    for line in (one_line(text, longest), shown(text, longest)):
        assert line.isprintable() and len(line) <= longest
    assert told(ValueError(text), longest).isprintable()
    if text.isprintable() and len(text) <= longest:
        assert one_line(text, longest) == text


def test_what_is_left_out_is_marked():
    assert one_line("a\nb\x1b[31m") == "a b?[31m"
    assert one_line("x" * 60) == "x" * 60 and one_line("x" * 61) == "x" * 57 + "..."
    assert shown("a\n") == r"'a\n'" and shown(Lines()) == "a b?[31m" and len(shown(["x" * 1000])) == 80


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("sharp"), "KeyError: 'sharp'"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("a\x1b[31m\nb" + "x" * 100_000), "RuntimeError: a?[31m b" + "x" * 289 + "..."),
        (Unreadable(), "Unreadable: no text: ValueError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_is_told_by_its_type_and_what_it_says(error, text):
    assert told(error) == text
