"""Has the commands of this package show Ray's token wherever there is one."""

from __future__ import annotations

import os
from pathlib import Path

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def token_file() -> Path:
    """Where Ray reads its token when no variable says otherwise."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token() -> None:
    """Turns authentication on for this process if there is a token and nobody has decided; before Ray is imported.

    Without it Ray's clients send no token, even where the file exists, and get 401.
    """
    if any(os.environ.get(name) for name in TOKEN_VARIABLES) or token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
