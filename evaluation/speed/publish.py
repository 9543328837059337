"""Publishing the adapter with proof, relative to a bare put and get of the same arrays by the same processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster
from torch import nn

from editing.editors.lora import ADAPTER, adapter_arrays, adapter_parameters, write_arrays
from editing.weights import WeightProof, WeightVersion
from evaluation.speed.table import ratio
from evaluation.speed.timing import Measured, interleaved, timed

ACTORS = 2
ADAPTERS = {"0.13 MB adapter": (96, 8, 22), "209 MB adapter": (3072, 32, 266)}
"""Width, rank and number of square layers: about the quickstart's adapter, and one of rank 32 on all attention
projections of FLUX.1 Kontext (52 million values)."""
GOALS = {"209 MB adapter": 1.2}
"""The proof of a small one takes as long as a message, milliseconds of a step of seconds."""
SECONDS = 300.0
MORE = 10
"""Times as many repetitions as elsewhere: small adapters take milliseconds, and nodes do other things besides."""
NODE = {"num_cpus": 1, "object_store_memory": 2**31, "include_dashboard": False}
OPTIONS = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}}


class Layer(nn.Module):
    """A linear layer as peft wraps it, with the adapter only and no base."""

    merged = disable_adapters = False
    active_adapters = (ADAPTER,)

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({ADAPTER: nn.Linear(width, rank, bias=False)})
        self.lora_B = nn.ModuleDict({ADAPTER: nn.Linear(rank, width, bias=False)})


class Holder:
    """A process that holds an adapter: the learner's or a worker's."""

    def __init__(self, width: int, rank: int, layers: int, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self._module = nn.ModuleList(Layer(width, rank) for _ in range(layers)).requires_grad_(False)
        self._arrays, self._parameters = adapter_arrays(self._module), adapter_parameters(self._module)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The bare arrays."""
        return self._arrays

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy the bare arrays into the adapter."""
        write_arrays(self._parameters, arrays)

    def take(self, arrays: Mapping[str, np.ndarray]) -> int:
        """Receive the bare arrays, without using them."""
        return sum(array.nbytes for array in arrays.values())

    def publish(self) -> tuple[int, WeightVersion]:
        """As `learner.backends.learner_host.LearnerHost.publish`."""
        version = WeightVersion.capture(self._module, 1)
        return version.version, version

    def apply(self, weights: WeightVersion) -> WeightProof:
        """As `actors.worker.RolloutWorker.set_weights`."""
        return weights.apply(self._module)


def measure_publish(repetitions: int) -> list[Measured]:
    """Two rows per size of adapter, on a separate Ray cluster: a learner, and every worker on another node.

    All nodes are this machine, but each has its own object store, so that weights travel as between machines. (In one
    store a put and a get move nothing but the put's one copy.)
    """
    cluster = Cluster(initialize_head=True, head_node_args=dict(NODE))
    rows, names = [], [f"worker_{number}" for number in range(ACTORS)]
    try:
        for name in names:
            cluster.add_node(**NODE, resources={name: 1})
        ray.init(address=cluster.address, log_to_driver=False)
        for name, shape in ADAPTERS.items():
            learner, *workers = (
                _holder(node, *shape, seed) for seed, node in enumerate(("node:__internal_head__", *names))
            )
            try:
                rows += compare(name, learner, workers, MORE * repetitions, GOALS.get(name))
            finally:
                for actor in (learner, *workers):
                    ray.kill(actor)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return rows


def _holder(node: str, *arguments: int) -> Any:
    return ray.remote(Holder).options(**OPTIONS, resources={node: 0.1}).remote(*arguments)


def compare(name: str, learner: Any, workers: list[Any], repetitions: int, goal: float | None = None) -> list[Measured]:
    """The two rows of one adapter, for `Holder`s."""

    def taken() -> None:
        arrays = learner.arrays.remote()
        ray.get([worker.take.remote(arrays) for worker in workers], timeout=SECONDS)

    def loaded() -> None:
        arrays = learner.arrays.remote()
        ray.get([worker.load.remote(arrays) for worker in workers], timeout=SECONDS)

    def proved() -> None:
        announced, weights = learner.publish.options(num_returns=2).remote()
        sent = [worker.apply.remote(weights) for worker in workers]
        version, receipts = ray.get(announced, timeout=SECONDS), ray.get(sent, timeout=SECONDS)
        if [receipt.version for receipt in receipts] != [version] * len(workers):
            raise RuntimeError(f"expected receipts for version {version}, got {receipts}")

    with_proof, takes, loads = interleaved(
        [timed(one, time.perf_counter) for one in (proved, taken, loaded)], repetitions
    )
    what = f"publish with proof to {len(workers)} nodes, {name}"
    return [
        ratio(f"{what} / bare put and get", with_proof, takes, goal),
        ratio(f"{what} / bare put, get and copy into the modules", with_proof, loads),
    ]
