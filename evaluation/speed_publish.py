"""Publishing the adapter with proof, against a bare put and get of the same arrays by the same number of processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from editing.editors.lora import ADAPTER, adapter_arrays
from editing.weights import WeightReceipt, WeightVersion
from evaluation.speed_table import ratio
from evaluation.timing import Measured, interleaved, timed

ACTORS = 2
ADAPTERS = {"0.13 MB adapter": (96, 8, 22), "209 MB adapter": (3072, 32, 266)}
"""Width, rank and number of square layers: about the quickstart's adapter, and one of rank 32 on all attention
projections of FLUX.1 Kontext (52 million values)."""
SECONDS = 300.0
OPTIONS = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}}


class Layer(nn.Module):
    """What peft makes of a linear layer, as far as the adapter goes; there is no base."""

    merged = disable_adapters = False
    active_adapters = (ADAPTER,)

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({ADAPTER: nn.Linear(width, rank, bias=False)})
        self.lora_B = nn.ModuleDict({ADAPTER: nn.Linear(rank, width, bias=False)})


class Holder:
    """A process that holds an adapter: the learner's or a worker's."""

    def __init__(self, width: int, rank: int, layers: int) -> None:
        torch.set_num_threads(1)
        self._module = nn.ModuleList(Layer(width, rank) for _ in range(layers)).requires_grad_(False)
        self._arrays = adapter_arrays(self._module)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The bare arrays."""
        return self._arrays

    def take(self, arrays: Mapping[str, np.ndarray]) -> int:
        """The bare arrays have come; nothing is done with them."""
        return sum(array.nbytes for array in arrays.values())

    def publish(self) -> tuple[int, WeightVersion]:
        """As `learner.host.LearnerHost.publish`."""
        version = WeightVersion.capture(self._module, 1)
        return version.version, version

    def apply(self, weights: WeightVersion) -> WeightReceipt:
        """As `actors.worker.RolloutWorker.set_weights`."""
        return weights.apply(self._module)


def measure_publish(repetitions: int) -> list[Measured]:
    """One row per size of adapter. Ray must be connected."""
    rows = []
    for name, shape in ADAPTERS.items():
        learner, *workers = [ray.remote(Holder).options(**OPTIONS).remote(*shape) for _ in range(1 + ACTORS)]
        try:
            rows.append(_row(name, learner, workers, repetitions))
        finally:
            for actor in (learner, *workers):
                ray.kill(actor)
    return rows


def _row(name: str, learner: Any, workers: list[Any], repetitions: int) -> Measured:
    def bare() -> None:
        arrays = learner.arrays.remote()
        ray.get([worker.take.remote(arrays) for worker in workers], timeout=SECONDS)

    def proved() -> None:
        announced, weights = learner.publish.options(num_returns=2).remote()
        version = ray.get(announced, timeout=SECONDS)
        receipts = ray.get([worker.apply.remote(weights) for worker in workers], timeout=SECONDS)
        if [receipt.version for receipt in receipts] != [version] * len(workers):
            raise RuntimeError(f"expected receipts for version {version}, seen {receipts}")

    with_proof, without = interleaved([timed(proved, time.perf_counter), timed(bare, time.perf_counter)], repetitions)
    return ratio(f"publish with proof to {len(workers)} processes, {name} / bare put and get", with_proof, without, 1.2)
