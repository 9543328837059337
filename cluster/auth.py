"""Ray's token: where it is, and authentication of our commands and runs with it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from configs.errors import ConfigError

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def token_file() -> Path:
    """The file from which Ray reads its token, unless RAY_AUTH_TOKEN is set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token() -> None:
    """Enable authentication for this process if there is a token and no explicit choice; call before importing Ray.

    Otherwise Ray's clients send no token even if the file exists, and get 401.
    """
    if any(os.environ.get(name) for name in TOKEN_VARIABLES) or token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_token_file() -> None:
    """Raise ConfigError if a local Ray could neither read a token nor create one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    try:
        path = token_file()
        if os.environ.get("RAY_AUTH_TOKEN_PATH") or path.exists():
            path.read_bytes()
        else:  # Ray creates one there
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        reason = f"{error.strerror} ({error.filename})" if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"Ray needs a place for its access token, but: {reason}. Set HOME to a writable folder "
            "(or RAY_AUTH_TOKEN_PATH to a token), set a token in this shell with export RAY_AUTH_TOKEN=$(python -c "
            "'import secrets; print(secrets.token_hex(32))'), or run without Ray: --cluster.mode inline"
        ) from error
