"""Data-parallel peers: each takes its share of a step's groups, and their gradients add up.

All hold the same adapter and the same optimizer, get the same sum to the bit, and so make the same step; nothing else
is exchanged. They are processes of one machine, which meet in a file and talk over its loopback interface: what
`torch.distributed` listens on is unauthenticated.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn


class PeersLost(RuntimeError):
    """The other learner processes cannot be reached; the sentence says what happened."""


@dataclass(frozen=True)
class Peers:
    """The rank of a process among its data-parallel peers."""

    rank: int = 0
    size: int = 1

    def takes(self, place: int) -> bool:
        """Whether the group at this place (from 0, in the order of consumption) of a step is this process's.

        >>> [Peers(1, 3).takes(place) for place in range(5)]
        [False, True, False, False, True]
        """
        return place % self.size == self.rank

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by the sum over all processes; one that no process has stays None.

        Through host memory, whatever the device: an adapter is small against what its gradient took.

        Raises:
            PeersLost: when one of the others is gone, or is not there within the time limit of `join`.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        there = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        gradients = [
            torch.zeros(parameter.numel())
            if parameter.grad is None
            else parameter.grad.detach().to("cpu", torch.float32).reshape(-1)
            for parameter in parameters
        ]
        both = torch.cat([there, *gradients])
        self._all_reduce(both)
        there, summed = both[: len(parameters)], both[len(parameters) :]
        for parameter, holders, gradient in zip(
            parameters, there, summed.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter).to(parameter) if holders > 0 else None

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, the same bits everywhere; raises as `add_up`."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        self._all_reduce(sums)
        return [float(value) for value in sums]

    def largest(self, value: float | None) -> float | None:
        """The largest of the processes' values, which are above 0; None where none has one. Raises as `add_up`."""
        if self.size == 1:
            return value
        found = torch.tensor([0.0 if value is None else value], dtype=torch.float64)
        self._all_reduce(found, distributed.ReduceOp.MAX)
        return found.item() or None

    def _all_reduce(self, tensor: torch.Tensor, how: distributed.ReduceOp.RedOpType = distributed.ReduceOp.SUM) -> None:
        try:
            distributed.all_reduce(tensor, how)
        except RuntimeError as error:
            raise PeersLost(
                f"learner process {self.rank} of {self.size} lost the others in the middle of a step: "
                f"{_first_sentence(error)}"
            ) from error


ALONE = Peers()


def meeting_point() -> str:
    """A new file's path, in a folder that only this user can enter, for `join`."""
    return str(Path(tempfile.mkdtemp(prefix="locus-learners-")) / "store")


def join(rank: int, size: int, meeting_point: str, seconds: float) -> Peers:
    """Meets the other processes of this machine; all call it with the same arguments but for the rank.

    Args:
        rank: of this process, 0 <= rank < size.
        size: the number of peers.
        meeting_point: of one call of the function of that name; its folder is removed when all have come.
        seconds: that the processes wait for each other at most, here and in every step.

    Raises:
        PeersLost: when they do not all come in time.
    """
    if size == 1:
        return ALONE
    # Else gloo takes the interface that the host's name leads to, which others may reach.
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting_point}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=seconds),
        )
        distributed.barrier()
    except RuntimeError as error:
        raise PeersLost(
            f"{size} learner processes (learner.num_workers) could not connect to each other: {_first_sentence(error)}"
        ) from error
    if rank == 0:
        shutil.rmtree(Path(meeting_point).parent, ignore_errors=True)
    return Peers(rank, size)


def _first_sentence(error: RuntimeError) -> str:
    """What happened, without gloo's advice."""
    return str(error).partition(". ")[0]
