"""The default name of a run: the next one that is free, also when several runs start at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import RunConfig


@contextmanager
def free_name(config: RunConfig) -> Iterator[RunConfig]:
    """The configuration under the first name of `name`, `name-2`, `name-3`, ... whose folder is not there yet.

    So that the same command can be typed again, or by all jobs of an array at once, and no run is ever overwritten. The
    folder is made here, by which of two processes exactly one gets the name; one that is still empty at the end goes.

    Raises:
        ConfigError: when no folder can be made there.
    """
    parent = Path(config.folder)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            name = config.name if number == 1 else f"{config.name}-{number}"
            with suppress(FileExistsError):
                (parent / name).mkdir()
                break
    except OSError as error:
        raise ConfigError(
            f"folder: expected a folder in which runs can be made, got {config.folder!r}: "
            f"{error.strerror}; name another one with --folder"
        ) from error
    try:
        yield config.model_copy(update={"name": name})
    finally:
        with suppress(OSError):  # a run has begun in it
            (parent / name).rmdir()
