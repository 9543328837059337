"""The console script `locus`: `locus train ...` is `python -m learner.main ...`.

The process becomes that command, so that exit codes, signals, the folders that Python looks into (the working folder
first, where scorers of the user's own may be) and what Ray's workers inherit are those of `python -m`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from locus.commands import COMMANDS
from locus.version import __version__

WRONG_REQUEST = 2
"""As `configs.exits.WRONG_REQUEST`, which is not imported for every command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Becomes the command that the first word names; returns an exit code where there is no such command."""
    words = sys.argv[1:] if argv is None else list(argv)
    word = words[0] if words else ""
    if word in COMMANDS:
        os.execv(sys.executable, [sys.executable, "-m", COMMANDS[word].module, *words[1:]])

    from configs.output import protect_output

    protect_output()
    if word in ("-h", "--help"):
        print("\n".join(usage()))
    elif word == "--version":
        print(f"locus {__version__}")
    else:
        print(unknown(word) if word else "\n".join(usage()), file=sys.stderr)
        return WRONG_REQUEST
    return 0


def usage() -> Iterator[str]:
    """The lines of the help."""
    width = max(map(len, COMMANDS))
    yield "usage: locus COMMAND [FLAGS]"
    yield ""
    yield "Locus: region-constrained GRPO for instruction-based image editing"
    yield ""
    for name, command in COMMANDS.items():
        yield f"  {name:{width}}  {command.does}"
    yield ""
    yield "Type locus COMMAND --help for the flags of a command, locus --version for the version."
    yield "Each command is also a module: python -m learner.main is locus train."


def unknown(word: str) -> str:
    """The message for an unknown command."""
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
    return f"locus {word}: unknown command; {hint}"
