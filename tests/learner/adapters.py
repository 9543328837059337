"""The adapters that runs end with."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ADAPTER = "adapter/pytorch_lora_weights.safetensors"
"""In a run's folder."""


def same_adapter(one: Path, other: Path) -> bool:
    """Whether two runs' adapters, which must be trained ones, are equal to the bit; their files name the runs."""
    a, b = load_file(one / ADAPTER), load_file(other / ADAPTER)
    assert np.abs(next(a[name] for name in a if ".lora_B." in name)).max() > 0  # it was trained
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
