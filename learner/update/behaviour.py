"""The weights beside those that are trained: what rollouts are made under, and what is measured and exported.

The behaviour policy is what is published to the workers, and is kept for the versions of which groups may still come.
It is the trained weights themselves, or, with `algorithm.behaviour ema`, their running mean as released code of
DiffusionNFT has it (NVlabs/DiffusionNFT @ 24af555): after step v the mean is d * mean + (1 - d) * weights with
d = min(v / 1000, 1 / 2).

What is measured on held-out tasks and exported is the behaviour policy, or, with `learner.optimizer.ema`, a running
mean of the trained weights of its own, with d = min(ema, (1 + v) / (10 + v)): a mean that begins at weights which
change nothing must forget them first (the schedule is that of TensorFlow's and diffusers' moving averages).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from editing.editors.lora import adapter_arrays, swapped_weights
from editing.weights import Arrays, WeightVersion

DECAY_PER_STEP, LARGEST_DECAY = 1e-3, 0.5
MEAN = "running_mean"


class Behaviour:
    """Keeps what it needs of the adapter of a transformer."""

    def __init__(self, transformer: nn.Module, staleness: int, mean: bool, ema: float | None = None) -> None:
        """
        Args:
            transformer: with its adapter, as it is at version 0.
            staleness: largest age in versions of a group.
            mean: whether rollouts are made under the running mean.
            ema: largest decay of the mean that is measured and exported; None: that is the behaviour policy.
        """
        self._transformer, self._staleness, self._mean, self._ema = transformer, staleness, mean, ema
        self._arrays: dict[int, Arrays] = {}
        if mean or staleness:
            self._arrays[0] = adapter_arrays(transformer)
        self._measured: Arrays = {} if ema is None else adapter_arrays(transformer)

    def follow(self, version: int, applied: bool) -> None:
        """The trained weights are at `version` now; a step that was not `applied` leaves the means as they were."""
        if self._mean:
            before, decay = self._arrays[version - 1], min(DECAY_PER_STEP * version, LARGEST_DECAY)
            self._arrays[version] = self._moved(before, decay) if applied else before
        elif self._staleness:
            self._arrays[version] = adapter_arrays(self._transformer)
        self._arrays = {v: arrays for v, arrays in self._arrays.items() if v >= version - self._staleness}
        if self._ema is not None and applied:
            self._measured = self._moved(self._measured, min(self._ema, (1 + version) / (10 + version)))

    def is_trained(self, staleness: int) -> bool:
        """Whether a group of this age was made under the weights that are trained now, before the first update."""
        return staleness == 0 and not self._mean

    def weights(self, version: int, staleness: int) -> AbstractContextManager[None]:
        """A context in which the transformer has the weights that made a group of this version and age."""
        if self.is_trained(staleness):
            return nullcontext()
        return swapped_weights(self._transformer, self._arrays[version])

    def published(self, version: int) -> WeightVersion:
        """What workers are to roll out under: not a copy where it is the trained weights."""
        return self._captured(version, self._arrays[version] if self._mean else None)

    def measured(self, version: int) -> WeightVersion:
        """What workers are to measure held-out tasks under; a copy as `published`."""
        return self.published(version) if self._ema is None else self._captured(version, self._measured)

    def exported(self, version: int) -> AbstractContextManager[None]:
        """A context in which the transformer has what is exported."""
        if self._ema is not None:
            return swapped_weights(self._transformer, self._measured)
        return swapped_weights(self._transformer, self._arrays[version]) if self._mean else nullcontext()

    @property
    def versions(self) -> list[int]:
        """Those whose behaviour policy is kept."""
        return sorted(self._arrays)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The kept weights, by a name per version, and the mean, for a checkpoint."""
        kept = {_name(version): arrays for version, arrays in self._arrays.items()}
        if self._ema is not None:
            kept[MEAN] = self._measured
        return {name: {n: torch.tensor(a) for n, a in arrays.items()} for name, arrays in kept.items()}

    def restore(self, version: int, versions: Iterable[int], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes over what `tensors` gave to a checkpoint of `version`, whose weights the transformer has again. What is
        kept only since this process, as a larger staleness or a mean wants it, begins with these."""
        self._arrays = {v: _arrays(tensors[_name(v)]) for v in versions}
        if self._mean or self._staleness:
            self._arrays.setdefault(version, adapter_arrays(self._transformer))
        if self._ema is not None:
            self._measured = _arrays(tensors[MEAN]) if MEAN in tensors else adapter_arrays(self._transformer)

    def _moved(self, before: Arrays, decay: float) -> Arrays:
        now = adapter_arrays(self._transformer)
        return {name: (decay * array + (1 - decay) * now[name]).astype(array.dtype) for name, array in before.items()}

    def _captured(self, version: int, arrays: Arrays | None) -> WeightVersion:
        """The trained weights, or others that they are swapped for."""
        if arrays is None:
            return WeightVersion.capture(self._transformer, version)
        with swapped_weights(self._transformer, arrays):
            return WeightVersion.capture(self._transformer, version).copied()


def _name(version: int) -> str:
    return f"adapter_of_version_{version}"


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
