"""Plain data parallelism for the recipe: one process per core (or GPU), gradients averaged by one all-reduce."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def _entry(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def launch(work: Callable[..., None], arguments: tuple[Any, ...], processes: int) -> None:
    """Run `work(*arguments)` in `processes` processes that form one gloo group on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_entry, args=(processes, port, work, arguments), nprocs=processes)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes (missing gradients count as zero)."""
    parameters = list(parameters)
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    host = flat.cpu()
    dist.all_reduce(host)
    flat = host.to(flat.device) / dist.get_world_size()
    offset = 0
    for p in parameters:
        p.grad = flat[offset:offset + p.numel()].view_as(p).clone()
        offset += p.numel()


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
