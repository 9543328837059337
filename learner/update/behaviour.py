"""The behaviour policy: the weights that rollouts are made under, and those of versions of which groups may still come.

They are the trained weights themselves, or, with `algorithm.behaviour ema`, their running mean as released code of
DiffusionNFT has it (NVlabs/DiffusionNFT @ 24af555): after step v the mean is d * mean + (1 - d) * weights with
d = min(v / 1000, 1 / 2). What is published, measured on held-out tasks and exported is the behaviour policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from editing.editors.lora import adapter_arrays, swapped_weights
from editing.weights import Arrays, WeightVersion

DECAY_PER_STEP, LARGEST_DECAY = 1e-3, 0.5


class Behaviour:
    """Keeps what it needs of the adapter of a transformer."""

    def __init__(self, transformer: nn.Module, staleness: int, mean: bool) -> None:
        """
        Args:
            transformer: with its adapter, as it is at version 0.
            staleness: largest age in versions of a group.
            mean: whether rollouts are made under the running mean.
        """
        self._transformer, self._staleness, self._mean = transformer, staleness, mean
        self._arrays: dict[int, Arrays] = {}
        if mean or staleness:
            self._arrays[0] = adapter_arrays(transformer)

    def follow(self, version: int, applied: bool) -> None:
        """The trained weights are at `version` now; a step that was not `applied` leaves the mean as it was."""
        if self._mean:
            before = self._arrays[version - 1]
            self._arrays[version] = self._moved(before, version) if applied else before
        elif self._staleness:
            self._arrays[version] = adapter_arrays(self._transformer)
        self._arrays = {v: arrays for v, arrays in self._arrays.items() if v >= version - self._staleness}

    def is_trained(self, staleness: int) -> bool:
        """Whether a group of this age was made under the weights that are trained now, before the first update."""
        return staleness == 0 and not self._mean

    def weights(self, version: int, staleness: int) -> AbstractContextManager[None]:
        """A context in which the transformer has the weights that made a group of this version and age."""
        if self.is_trained(staleness):
            return nullcontext()
        return swapped_weights(self._transformer, self._arrays[version])

    def published(self, version: int) -> WeightVersion:
        """What workers are to hold: not a copy where it is the trained weights."""
        if not self._mean:
            return WeightVersion.capture(self._transformer, version)
        with swapped_weights(self._transformer, self._arrays[version]):
            return WeightVersion.capture(self._transformer, version).copied()

    def exported(self, version: int) -> AbstractContextManager[None]:
        """A context in which the transformer has the present behaviour policy."""
        return swapped_weights(self._transformer, self._arrays[version]) if self._mean else nullcontext()

    @property
    def versions(self) -> list[int]:
        """Those that are kept."""
        return sorted(self._arrays)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The kept weights, by a name per version, for a checkpoint."""
        return {_name(v): {n: torch.tensor(a) for n, a in arrays.items()} for v, arrays in self._arrays.items()}

    def restore(self, versions: Iterable[int], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes over what `tensors` gave to a checkpoint."""
        self._arrays = {v: {n: t.numpy() for n, t in tensors[_name(v)].items()} for v in versions}

    def _moved(self, before: Arrays, version: int) -> Arrays:
        decay = min(DECAY_PER_STEP * version, LARGEST_DECAY)
        now = adapter_arrays(self._transformer)
        return {name: (decay * array + (1 - decay) * now[name]).astype(array.dtype) for name, array in before.items()}


def _name(version: int) -> str:
    return f"adapter_of_version_{version}"
