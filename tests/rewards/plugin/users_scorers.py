"""Scorers of a user, good and bad, which tests have loaded into processes."""

import asyncio
import ctypes
import functools
import os
import sys
import time

import numpy as np

from rewards.result import Score


def docs_example(given):
    grey = given.images.mean(axis=3)
    return np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2)) / 255


async def asynchronous(given):
    await asyncio.sleep(0)
    return [0.5] * len(given.images)


def returns_an_awaitable(given):
    return asynchronous(given)


class Scorers:
    def __call__(self, given):
        return [1] * len(given.images)

    def method(self, given):
        return [2.0] * len(given.images)


class AsyncCallable:
    async def __call__(self, given):
        return [0.25] * len(given.images)


called = Scorers()
async_callable = AsyncCallable()
partial = functools.partial(lambda weight, given: np.full(len(given.images), weight, dtype=np.float16), 0.75)
not_callable = 3


def process(given):
    """The number of the process."""
    return [float(os.getpid())] * len(given.images)


def seen(given):
    """What came, as errors that can be read, and then all of it changed."""
    task = given.task
    arrays = [given.images, task.source, task.edit_mask, task.target, given.acd, *task.regions.values()]
    text = repr(
        [
            task.task_id,
            task.instruction,
            task.caption,
            dict(task.meta),
            list(task.regions),
            [[one.dtype.str, one.shape, one.tobytes().hex()] for one in arrays if one is not None],
        ]
    )
    for array in arrays:
        if array is not None:
            array[:] = 0
    return [Score(error=text)] * len(given.images)


def _how(given):
    """What a candidate's first value asks for."""
    return int(given.images[0, 0, 0, 0])


def by_the_first_value(given):
    """0 exits, 1 hangs, 2 crashes, 3 exits as sys.exit does, 4 is interrupted, 5 raises; others score their process."""
    how = _how(given)
    if how == 0:
        os._exit(0)
    if how == 1:
        while True:
            time.sleep(0.01)
    if how == 2:
        ctypes.string_at(0)
    if how == 3:
        raise SystemExit(3)
    if how == 4:
        raise KeyboardInterrupt
    if how == 5:
        raise asyncio.CancelledError("by the user's code")
    return process(given)


async def by_the_first_value_awaited(given):
    await asyncio.sleep(0)
    return by_the_first_value(given)


def starts_a_process_and_hangs(given):
    """Its number is written beside the file that the instruction names."""
    starts_a_process(given)
    while True:
        time.sleep(1)


def starts_a_process_and_answers_late(given):
    """After two seconds, when whoever waits for the file has long ended the run."""
    scores = starts_a_process(given)
    time.sleep(2)
    return scores


def starts_a_process_and_exits(given):
    starts_a_process(given)
    os._exit(0)


def starts_a_process(given):
    child = os.fork()
    while not child:
        time.sleep(1)
    with open(given.task.instruction + ".part", "w") as file:
        file.write(f"{os.getpid()} {child}")
    os.rename(given.task.instruction + ".part", given.task.instruction)
    return [1.0] * len(given.images)


def prints(given):
    print("é → ✓", flush=True)
    print("é → ✓", file=sys.stderr, flush=True)
    return [1.0] * len(given.images)


def process_id(given):
    return [os.getpid()] * len(given.images)
