"""Versions of the adapter's weights, sent from the learner to the workers with proof of arrival."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import nn

from editing.editors.lora import AdapterError, adapter_parameters, bound_modules, check_fit, finite, views, write_arrays

Arrays = Mapping[str, NDArray[np.float32]]


class WeightError(ValueError):
    """A version of the weights was rejected."""


@dataclass(frozen=True)
class WeightProof:
    """A version of the adapter, told by what it is: the learner announces one, and every worker reports its own.

    The learner's is of the weights that it published, a worker's of what its modules hold after `WeightVersion.apply`,
    read back from them. A worker has the published weights exactly when the two are equal.

    Attributes:
        version: v is the policy after v optimizer steps.
        fingerprint: see `fingerprint`.
        modules: how many modules the adapter acts on.
    """

    version: int
    fingerprint: str
    modules: int


@dataclass(frozen=True, eq=False)
class WeightVersion:
    """One published version of the adapter.

    Attributes:
        version: v is the policy after v optimizer steps; 0 is the fresh adapter.
        arrays: float32 arrays by name, see `editing.editors.lora.adapter_parameters`.
        fingerprint: `fingerprint(arrays)`.
        modules: how many modules the adapter acts on where it was captured.
    """

    version: int
    arrays: Arrays
    fingerprint: str
    modules: int

    @property
    def proof(self) -> WeightProof:
        """What whoever takes these weights over must prove to hold."""
        return WeightProof(self.version, self.fingerprint, self.modules)

    @classmethod
    def capture(cls, transformer: nn.Module, version: int) -> "WeightVersion":
        """The transformer's adapter. On the host nothing is copied: send it, or take `copied()`, before it changes.

        Raises:
            WeightError: when there is no active adapter, or its values are not finite.
        """
        arrays, modules = views(adapter_parameters(transformer)), bound_modules(transformer)
        if not arrays or not modules:
            raise WeightError(
                f"There is nothing to publish: the transformer has {len(arrays)} adapter parameters and the "
                f"adapter acts on {modules} modules. Attach it first, and publish outside of "
                "without_adapter()."
            )
        try:
            return cls(version, arrays, _digest(finite(arrays)), modules)
        except AdapterError as error:
            raise WeightError(f"Version {version} cannot be published: {error}") from error

    def copied(self) -> "WeightVersion":
        """A copy with its own arrays."""
        return replace(self, arrays={name: array.copy() for name, array in self.arrays.items()})

    def apply(self, transformer: nn.Module) -> WeightProof:
        """Copy the weights into the transformer's adapter and verify them in its modules.

        Finiteness was checked when the values were captured: arrays with the same fingerprint are the same.

        Raises:
            WeightError: for missing or unknown names, other shapes or dtypes, or an adapter that acts on another
                number of modules; the transformer keeps the weights it had. And when its modules do not have the
                fingerprint after copying; then it holds no version at all.
        """
        parameters = adapter_parameters(transformer)
        try:
            check_fit(parameters, self.arrays)
        except AdapterError as error:
            raise WeightError(f"Version {self.version} was refused: {error}") from error
        modules = bound_modules(transformer)
        if modules != self.modules:
            raise WeightError(
                f"Version {self.version} was refused: it acts on {self.modules} modules at the learner, but "
                f"on {modules} here; the adapters were attached with different targets, or one is switched "
                "off."
            )
        # Only the modules' final content counts; a mismatch is diagnosed afterwards.
        write_arrays(parameters, self.arrays)
        held = fingerprint(views(parameters))
        if held != self.fingerprint:
            received = fingerprint(self.arrays)
            if received != self.fingerprint:
                raise WeightError(
                    f"Version {self.version} was refused: its arrays have the fingerprint {received[:12]}, announced "
                    f"was {self.fingerprint[:12]}; they changed on the way."
                )
            raise WeightError(
                f"Version {self.version} was refused: after copying, the modules hold {held[:12]} instead of "
                f"{self.fingerprint[:12]}. Parameters share memory, or the memory is faulty; load the editor again."
            )
        return WeightProof(self.version, held, modules)


def fingerprint(arrays: Arrays) -> str:
    """XXH3-128 (hex) over the sorted names, dtypes, shapes and bytes: equal for equal weights.

    It finds faults, not forgers: 2^-128 for weights that differ by accident. A cryptographic hash would cost more than
    sending them.
    """
    return _digest((name, arrays[name]) for name in sorted(arrays))


def _digest(arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> str:
    """The fingerprint of arrays hashed as they arrive, while each is still in the processor's cache."""
    digest = xxhash.xxh3_128()
    for name, value in arrays:
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
