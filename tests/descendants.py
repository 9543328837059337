"""The processes below this one, which come and go while a test looks at them."""

from contextlib import suppress

import psutil


def descendants(name: str = "", of: int | None = None) -> list[psutil.Process]:
    """The living processes below the process `of` (this one) whose name has `name` in it; Ray's actors are named
    ray::CLASS or ray::CLASS.method.

    One that ends while it is asked for its name is left out: an observer that raises is silenced by the run, so that
    its test would go on as if it had seen none.
    """
    found = []
    for one in psutil.Process(of).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if one.status() != psutil.STATUS_ZOMBIE and name in one.name():
                found.append(one)
    return found
