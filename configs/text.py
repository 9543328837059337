"""Parts of messages: counts, and untrusted text as one printable line of bounded length, whatever it contains."""

from __future__ import annotations

from typing import Any


def counted(number: int, thing: str) -> str:
    """A number of things: `1 node`, `2 nodes`."""
    return f"{number} {thing}" + "s" * (number != 1)


def one_line(text: str, longest: int = 60) -> str:
    """The beginning of a text on one line: white space becomes a space, other unprintable characters `?`."""
    line = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text[: longest + 1]
    )
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def shown(value: Any, longest: int = 80) -> str:
    """A value's repr, on one line and truncated."""
    return one_line(repr(value), longest)


def told(error: BaseException, longest: int = 300) -> str:
    """An exception raised by foreign code: its type and its message."""
    try:
        said = str(error)
    except Exception as another:  # its __str__ may do anything
        said = f"no text: {type(another).__name__}"
    line = one_line(said, longest).strip()
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
