"""Timing that is robust on a busy machine: interleaved repetitions, medians, paired ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editing.editors.base import Condition, Editor
from editing.task import Image
from evaluation.statistics import Spread

Clock = Callable[[], float]
"""Seconds since an arbitrary fixed point."""


@dataclass(frozen=True)
class Measured:
    """One line of a speed table: a ratio of seconds, and what was divided by what.

    Attributes:
        name: what is compared.
        ratio: numerator over denominator, pair by pair.
        numerator, denominator: seconds.
        goal: the ratio wanted, at most or `at_least`; None where there is none.
    """

    name: str
    ratio: Spread
    numerator: Spread
    denominator: Spread
    goal: float | None = None
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.ratio.median >= self.goal if self.at_least else self.ratio.median <= self.goal


def clock_for(device: torch.device, threads: int) -> tuple[Clock, str]:
    """A clock for work on a device, and its name.

    One thread on a CPU is timed in CPU seconds, so that waiting for a busy core does not count; a GPU in wall
    seconds after it has finished what it was given; several threads in wall seconds.
    """
    if device.type == "cuda":

        def after_the_gpu() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return after_the_gpu, "wall seconds, GPU synchronised"
    if threads == 1:
        return time.process_time, "CPU seconds of one thread"
    return time.perf_counter, f"wall seconds, {threads} threads"


def timed(work: Callable[[], Any], clock: Clock) -> Callable[[], float]:
    """A function that runs the work and returns its seconds."""

    def measure() -> float:
        start = clock()
        work()
        return clock() - start

    return measure


def interleaved(measures: Sequence[Callable[[], float]], repetitions: int) -> list[list[float]]:
    """The seconds of each measure, `repetitions` of each, after one warm-up of each.

    One repetition takes every measure once, and each begins another repetition, so that a drift of the machine
    meets all alike.
    """
    for measure in measures:
        measure()
    seconds: list[list[float]] = [[] for _ in measures]
    for repetition in range(repetitions):
        for place in range(len(measures)):
            which = (place + repetition) % len(measures)
            seconds[which].append(measures[which]())
    return seconds


@contextmanager
def recorded_calls(transformer: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Collect the keyword arguments of every forward pass within the context."""
    calls: list[dict[str, Any]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert not args, "editors call their transformer by keyword"
        calls.append(dict(kwargs))

    handle = transformer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def timed_decoding(editor: Editor, clock: Clock) -> Iterator[list[float]]:
    """Collect the seconds of every `editor.decode` within the context."""
    seconds: list[float] = []
    decode = editor.decode

    def decode_and_time(latents: Tensor, condition: Condition) -> Image:
        start = clock()
        image = decode(latents, condition)
        seconds.append(clock() - start)
        return image

    # An instance attribute shadows the method; deleting it restores the method.
    vars(editor)["decode"] = decode_and_time
    try:
        yield seconds
    finally:
        del vars(editor)["decode"]


def machine(device: torch.device) -> dict[str, Any]:
    """The machine of the measurements."""
    chip = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        chip = names[0] if names else chip
    if device.type == "cuda":
        chip = f"{torch.cuda.get_device_name(device)}, {chip}"
    return {
        "chip": chip,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
