"""Atomic replacement of a folder: the new one is built beside it, so that an interruption leaves the old one intact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from editing.shapes.pretrain.errors import RecipeError


@contextmanager
def replaced(folder: Path, contents: Collection[str]) -> Iterator[Path]:
    """A new, empty folder beside `folder`; it takes the place of `folder` when the block ends without an exception.

    After an exception it is removed. A process that is killed leaves it behind, and the next one says so.

    Args:
        folder: need not exist.
        contents: names of all that may lie in `folder`, since what lies there is removed.

    Raises:
        RecipeError: when `folder` holds anything else, or the new one cannot be made or put in its place.
    """
    folder = folder.resolve()
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    if old.exists() and not folder.exists():
        os.rename(old, folder)  # a process was killed between the two renames below
    _check(folder, contents)
    try:
        new.mkdir(parents=True)
    except FileExistsError as error:
        raise RecipeError(
            f"--out {folder}: {new} already exists; wait for the process that is writing it, or, if "
            "that was killed, remove it"
        ) from error
    except OSError as error:
        raise RecipeError(f"--out {folder}: {new} cannot be made ({error.strerror}); choose another folder") from error
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    try:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise RecipeError(
            f"--out {folder}: the result is complete in {new}, but cannot be moved ({error.strerror}); move it yourself"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _check(folder: Path, contents: Collection[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RecipeError(f"--out {folder}: expected a folder, got a file; choose another name")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in contents)
    if foreign:
        raise RecipeError(
            f"--out {folder}: expected a new folder, or one with a base and nothing else, since it is "
            f"replaced as a whole, got one with {', '.join(foreign[:5])} in it. Choose another folder"
        )
