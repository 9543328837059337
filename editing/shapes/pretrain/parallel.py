"""Plain data parallelism for the recipe: one process per core, a shared batch, gradients reduced by sum."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from editing.shapes.pretrain.errors import RecipeError


def share(total: int, processes: int, rank: int) -> range:
    """A process's part of `range(total)`: contiguous, in rank order, with sizes that differ by at most 1.

    Example: 16 samples for 3 processes are [0, 6), [6, 11), [11, 16).
    """
    each, rest = divmod(total, processes)
    start = rank * each + min(rank, rest)
    return range(start, start + each + (rank < rest))


def launch(work: Callable[..., None], arguments: tuple[Any, ...], processes: int) -> None:
    """Run `work(*arguments)` in `processes` processes that form one gloo group on loopback.

    Raises:
        RecipeError: that of a process; the others are ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The exception that `spawn` itself passes on carries a traceback as text instead of the sentence.
    sentences = mp.get_context("spawn").SimpleQueue()
    try:
        spawn(_entry, args=(processes, port, sentences, work, arguments), nprocs=processes)
    except ProcessExitedException:
        if sentences.empty():
            raise
        raise RecipeError(sentences.get()) from None


def _entry(
    rank: int, world: int, port: int, sentences: Any, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(*arguments)
    except RecipeError as error:
        sentences.put(str(error))
        raise SystemExit(1) from error
    finally:
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor, weight: float) -> float:
    """Replace every gradient by its mean over the whole batch (missing ones count as zero); returns the mean loss.

    Args:
        parameters: in the same order in every process.
        loss: scalar, this process's mean over its own samples; its gradients are those of the parameters.
        weight: this process's share of the batch; the shares of all processes add up to 1.
    """
    parameters = list(parameters)
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(part.flatten() for part in parts), loss.detach().reshape(1)]) * weight
    host = flat.cpu()
    dist.all_reduce(host)
    flat = host.to(flat.device)
    offset = 0
    for p in parameters:
        p.grad = flat[offset : offset + p.numel()].view_as(p).clone()
        offset += p.numel()
    return float(host[-1])


class Average:
    """Exponential moving average of parameters, bias-corrected by a warm-up of the decay."""

    def __init__(self, modules: Iterable[nn.Module], decay: float) -> None:
        self.parameters = [p for module in modules for p in module.parameters()]
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for average, p in zip(self.shadow, self.parameters, strict=True):
            average.lerp_(p, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and live weights; call again to restore."""
        for average, p in zip(self.shadow, self.parameters, strict=True):
            live = p.detach().clone()
            p.copy_(average)
            average.copy_(live)
