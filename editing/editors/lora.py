"""The trained adapter: float32 LoRA on the attention projections of a frozen base, through peft.

Names are those of an exported file without its prefix, `transformer_blocks.0.attn.to_q.lora_A.weight`,
sorted, so that they mean the same on every machine.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.dlpack import from_dlpack

from editing.editors.folder import ATTENTION

ADAPTER = "default"
"""peft's name of the trained adapter."""


class AdapterError(ValueError):
    """Adapter weights or settings do not fit the transformer; the message says what was expected."""


def attach_lora(transformer: nn.Module, rank: int, alpha: float, seed: int, targets: str = ATTENTION) -> int:
    """Add a LoRA adapter (A gaussian, B zero: no change yet), freeze the rest; return the bound modules.

    A is drawn as peft's "gaussian" is, N(0, 1/rank^2), but from `seed` and the parameter's name alone, so
    that every process that attaches with the same seed holds the same bits. The global generator is left as
    it was. Adapter parameters are float32 whatever the base's dtype.

    Args:
        transformer: a diffusers transformer without an adapter.
        rank: r of W + (alpha / r) * B A.
        alpha: see there.
        seed: of A.
        targets: regular expression that a module's whole name must match.

    Raises:
        AdapterError: when there is an adapter already, or no module matches.
    """
    from peft import LoraConfig

    if getattr(transformer, "peft_config", {}):
        raise AdapterError("The transformer already has an adapter; attach_lora adds the only one.")
    if not any(re.fullmatch(targets, name) for name, _ in transformer.named_modules()):
        raise AdapterError(f"No module of the transformer has a name that matches the targets {targets!r}.")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian")
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        _diffusers(transformer).add_adapter(config, adapter_name=ADAPTER)
    for name, parameter in adapter_parameters(transformer).items():
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(_seed_of(seed, name))
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / rank)
    return bound_modules(transformer)


def detach_lora(transformer: nn.Module) -> None:
    """Remove the adapter that `attach_lora` added; the base stays frozen."""
    _diffusers(transformer).delete_adapters(ADAPTER)


def adapter_config(transformer: nn.Module) -> Any:
    """peft's LoraConfig of the adapter (`r`, `lora_alpha`, `target_modules`); KeyError without one."""
    return _diffusers(transformer).peft_config[ADAPTER]


def _diffusers(transformer: nn.Module) -> Any:
    """The transformer, typed for the methods that diffusers adds to a module."""
    return transformer


def _adapter_layers(module: nn.Module, prefix: str = "") -> dict[str, Any]:
    """The modules that hold the adapter (peft's LoraLayer), by name; their children are not searched."""
    found = {}
    for name, child in module.named_children():
        if "lora_A" in child._modules and ADAPTER in child.get_submodule("lora_A")._modules:
            found[prefix + name] = child
        else:
            found |= _adapter_layers(child, f"{prefix}{name}.")
    return found


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big", signed=True)


def adapter_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, sorted; empty without an adapter."""
    found = {
        f"{name}.{matrix}.weight": getattr(layer, matrix)[ADAPTER].weight
        for name, layer in _adapter_layers(transformer).items()
        for matrix in ("lora_A", "lora_B")
    }
    return dict(sorted(found.items()))


def views(parameters: Mapping[str, nn.Parameter]) -> dict[str, NDArray[np.float32]]:
    """The parameters' values, float32, on the host: without a copy where they already are."""
    return {name: parameter.detach().to("cpu", torch.float32).numpy() for name, parameter in parameters.items()}


def adapter_arrays(transformer: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of the adapter's weights, float32, on the host."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, parameter in adapter_parameters(transformer).items()
    }


@torch.no_grad()
def largest_change(transformer: nn.Module) -> float:
    """The adapter's largest change of a weight matrix W, relative to it: the maximum over the modules of
    |alpha / r B A| / |W| (Frobenius norms). 0 for a fresh adapter; infinite or NaN where its values are."""
    changes = [0.0]
    for layer in _adapter_layers(transformer).values():
        a, b = (getattr(layer, matrix)[ADAPTER].weight.double() for matrix in ("lora_A", "lora_B"))
        # |B A|^2 = sum of (B^T B) * (A A^T): r x r, however large the module is.
        square = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)
        weight = layer.get_base_layer().weight
        changes.append(layer.scaling[ADAPTER] * square.sqrt().item() / weight.double().norm().item())
    return max(changes, key=lambda change: (math.isnan(change), change))


def bound_modules(transformer: nn.Module) -> int:
    """Number of modules that the adapter acts on in a forward pass: those that hold it, active, enabled and not
    merged."""
    return sum(
        1
        for layer in _adapter_layers(transformer).values()
        if ADAPTER in layer.active_adapters and not layer.disable_adapters and not layer.merged
    )


@contextmanager
def without_adapter(transformer: nn.Module) -> Iterator[None]:
    """A context in which the transformer is its base: the adapter is switched off, not removed.

    A backward pass through checkpointed blocks recomputes them, so it belongs outside of this context when
    its forward was.
    """
    layers = list(_adapter_layers(transformer).values())
    disabled = [layer.disable_adapters for layer in layers]
    trainable = {name: p.requires_grad for name, p in adapter_parameters(transformer).items()}
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer, was_disabled in zip(layers, disabled, strict=True):
            layer.enable_adapters(not was_disabled)
        # peft freezes a disabled adapter and thaws an enabled one, whatever it was before.
        for name, parameter in adapter_parameters(transformer).items():
            parameter.requires_grad_(trainable[name])


def check_fit(parameters: Mapping[str, nn.Parameter], arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise AdapterError unless arrays and parameters are float32 with the same names and shapes."""
    missing, unknown = sorted(parameters.keys() - arrays.keys()), sorted(arrays.keys() - parameters.keys())
    if missing or unknown:
        raise AdapterError(
            f"The weights: expected the adapter's {len(parameters)} names; {len(missing)} are missing "
            f"{missing[:3]} and {len(unknown)} are unknown {unknown[:3]}."
        )
    for name, parameter in parameters.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != tuple(parameter.shape):
            raise AdapterError(
                f"{name}: expected float32 {list(parameter.shape)}, got {array.dtype} {list(array.shape)}."
            )
        if parameter.dtype != torch.float32:
            raise AdapterError(f"{name}: expected a float32 parameter to hold them, got {parameter.dtype}.")


def finite(arrays: Mapping[str, NDArray[np.float32]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The arrays, each after a check of its values; AdapterError at the first that is not finite."""
    for name, array in arrays.items():
        # The sum of squares is finite for all but huge values, and twice as fast as checking each value.
        if not np.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
            raise AdapterError(f"{name} holds values that are not finite.")
        yield name, array


def check_arrays(transformer: nn.Module, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """`check_fit`, and AdapterError unless all values are finite."""
    check_fit(adapter_parameters(transformer), arrays)
    for _ in finite(arrays):
        pass


def copy_arrays(transformer: nn.Module, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights into the adapter in place (same storage: compiled graphs stay valid).

    Raises:
        AdapterError: as `check_arrays`; the adapter is unchanged then.
    """
    check_arrays(transformer, arrays)
    write_arrays(adapter_parameters(transformer), arrays)


@torch.no_grad()
def write_arrays(parameters: Mapping[str, nn.Parameter], arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights without checking them."""
    for name, parameter in parameters.items():
        # Unlike from_numpy it accepts read-only arrays, such as those from an object store.
        parameter.copy_(from_dlpack(arrays[name]))


@contextmanager
def swapped_weights(transformer: nn.Module, arrays: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
    """A context in which the adapter has other weights, such as an older policy's; its own are restored bit
    for bit.

    Written in place, so a backward pass whose forward came before must come before too (torch refuses it
    otherwise).

    Raises:
        AdapterError: as `check_arrays`; the adapter is unchanged then.
    """
    own = {name: p.detach().clone() for name, p in adapter_parameters(transformer).items()}
    copy_arrays(transformer, arrays)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in adapter_parameters(transformer).items():
                parameter.copy_(own[name])
