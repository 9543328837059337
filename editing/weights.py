"""Versions of the adapter's weights as they travel from the learner to the workers, with proof of arrival."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from editing.editors.lora import AdapterError, adapter_arrays, bound_modules, check_arrays, copy_arrays

Arrays = Mapping[str, NDArray[np.float32]]


class WeightError(ValueError):
    """A version of the weights was refused; the transformer keeps the weights it had."""


@dataclass(frozen=True)
class WeightReceipt:
    """What a transformer holds after `WeightVersion.apply`, read back from its modules."""

    version: int
    sha256: str
    modules: int


@dataclass(frozen=True, eq=False)
class WeightVersion:
    """One published version of the adapter.

    Attributes:
        version: counts up with every publication; 0 is the untrained adapter.
        arrays: float32 arrays by name, see `editing.editors.lora.adapter_parameters`.
        sha256: `fingerprint(arrays)`.
        modules: how many modules the adapter acts on where it was captured.
    """

    version: int
    arrays: Arrays
    sha256: str
    modules: int

    @classmethod
    def capture(cls, transformer: nn.Module, version: int) -> "WeightVersion":
        """A copy of the transformer's adapter.

        Raises:
            WeightError: when there is no active adapter.
        """
        arrays, modules = adapter_arrays(transformer), bound_modules(transformer)
        if not arrays or not modules:
            raise WeightError(
                f"There is nothing to publish: the transformer has {len(arrays)} adapter parameters and the "
                f"adapter acts on {modules} modules. Attach it first, and publish outside of "
                "without_adapter()."
            )
        return cls(version=version, arrays=arrays, sha256=fingerprint(arrays), modules=modules)

    def apply(self, transformer: nn.Module) -> WeightReceipt:
        """Copies the weights into the transformer's adapter and proves it from the module.

        Raises:
            WeightError: for missing or unknown names, other shapes or dtypes, values that are not finite,
                arrays that do not have the fingerprint, or an adapter that acts on another number of
                modules. The transformer keeps the weights it had.
        """
        try:
            check_arrays(transformer, self.arrays)
        except AdapterError as error:
            raise WeightError(f"Version {self.version} was refused: {error}") from error
        modules = bound_modules(transformer)
        if modules != self.modules:
            raise WeightError(
                f"Version {self.version} was refused: it acts on {self.modules} modules at the learner, but "
                f"on {modules} here; the adapters were attached with different targets, or one is switched "
                "off."
            )
        before = adapter_arrays(transformer)
        copy_arrays(transformer, self.arrays)
        # What the modules hold in the end is what counts; why it is not what was announced is asked only then.
        held = fingerprint(adapter_arrays(transformer))
        if held != self.sha256:
            copy_arrays(transformer, before)
            seen = fingerprint(self.arrays)
            if seen != self.sha256:
                raise WeightError(
                    f"Version {self.version} was refused: its arrays have the fingerprint {seen[:12]}, announced "
                    f"was {self.sha256[:12]}; they changed on the way."
                )
            raise WeightError(
                f"Version {self.version} was refused: after copying, the modules hold {held[:12]} instead of "
                f"{self.sha256[:12]}; adapter parameters must be float32."
            )
        return WeightReceipt(version=self.version, sha256=held, modules=modules)


def fingerprint(arrays: Arrays) -> str:
    """sha256 (hex) over the sorted names, dtypes, shapes and bytes: equal exactly for equal weights."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
