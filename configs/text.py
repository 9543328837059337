"""Text of others in a sentence of ours: one printable line, bounded, whatever it is."""

from __future__ import annotations

from typing import Any


def one_line(text: str, longest: int = 60) -> str:
    """The beginning of a text: white space becomes a space, what else cannot be printed a question mark."""
    line = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text[: longest + 1]
    )
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def shown(value: Any, longest: int = 80) -> str:
    """A value, as Python writes it."""
    return one_line(repr(value), longest)


def told(error: BaseException, longest: int = 300) -> str:
    """An exception of somebody's code: its type, and what it says."""
    try:
        said = str(error)
    except Exception as another:  # the class may do anything
        said = f"no text: {type(another).__name__}"
    line = one_line(said, longest).strip()
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
