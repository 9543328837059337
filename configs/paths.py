"""Expansion of user-supplied paths: `~` and variables are expanded, or rejected by name."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# Access tokens of the services that a run may use. A digit is required, so that long names are not mistaken for one.
TOKEN = re.compile(
    r"\b(hf_(?=\w*\d)\w{16,}|sk-(?=[\w-]*\d)[\w-]{16,}|gh[opsu]_\w{30,}|github_pat_\w{30,}|AKIA[0-9A-Z]{16})"
)
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def expanded(text: str) -> str:
    """The path with a leading `~` or `~user` and every `$NAME` or `${NAME}` expanded.

    With HOME=/home/ada and SCRATCH unset, `~/x` is /home/ada/x and `$SCRATCH/x` is rejected, not created as a folder
    of that name.

    Raises:
        ValueError: a variable that is unset or holds an access token, an unknown user, a null byte.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip("{}")
        found = os.environ.get(name, "")
        if not found:
            raise ValueError(
                f"a path whose variables are set, but {name} is not (export {name}=..., or write out the path)"
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
                f"a path, but {user} is no user on this machine (write out the path, or ./{user} for a folder of "
                "that name)"
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
"""A path in the configuration, expanded on validation, so that it can be opened as it is."""


def path_argument(text: str) -> Path:
    """A path from the command line, as an `argparse` type."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {error}, got {text!r}") from error
