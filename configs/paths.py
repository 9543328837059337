"""The one place where a path that a person wrote is read: `~` and variables are expanded, or refused by name."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# Access tokens of the services that a run may talk to. A digit is asked for, so that long names pass.
TOKEN = re.compile(
    r"\b(hf_(?=\w*\d)\w{16,}|sk-(?=[\w-]*\d)[\w-]{16,}|gh[opsu]_\w{30,}|github_pat_\w{30,}|AKIA[0-9A-Z]{16})"
)
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def expanded(text: str) -> str:
    """The path with a leading `~` or `~user` and every `$NAME` or `${NAME}` replaced; the same text without any.

    With HOME=/home/ada and SCRATCH unset, `~/x` is /home/ada/x and `$SCRATCH/x` is refused, rather than made a folder
    of that name.

    Raises:
        ValueError: a variable that is not set or holds an access token, a user that is not there, a null byte.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip("{}")
        found = os.environ.get(name, "")
        if not found:
            raise ValueError(
                f"a path whose variables are set, but {name} is not (export {name}=..., or write the path out)"
            )
        if TOKEN.search(found):
            raise ValueError(f"a path, but {name} holds what looks like an access token")
        return found

    result = _VARIABLE.sub(value, text)
    if result.startswith("~"):
        result = os.path.expanduser(result)
        if result.startswith("~"):
            user = result.partition("/")[0]
            raise ValueError(
                f"a path, but {user} is the home of nobody on this machine (write the path out, or "
                f"./{user} for a folder of that name)"
            )
    if "\0" in result:
        raise ValueError("a path without a null byte")
    return result


def _validated(text: str) -> str:
    try:
        return expanded(text)
    except ValueError as error:
        # Braces would be read as placeholders.
        raise PydanticCustomError("path", "{expected}", {"expected": str(error)}) from error


PathText = Annotated[str, AfterValidator(_validated)]
"""A path in the configuration, expanded: whoever reads the key has a path that can be opened."""


def path_argument(text: str) -> Path:
    """A path on the command line; for `argparse`, which prints the sentence."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {error}, got {text!r}") from error
