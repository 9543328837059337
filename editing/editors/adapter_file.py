"""The trained adapter as a file that stock diffusers loads: `FluxKontextPipeline.load_lora_weights(folder)`.

The file acts at the same strength under every loader: alpha / rank is folded into B, and alpha = rank is written in the
header. Loaders that read the header (diffusers) and those that do not, and take a scale of 1 (ComfyUI, ai-toolkit,
musubi, older diffusers), then make the same W + B A. Exact where alpha / rank is a power of two, otherwise B is rounded
once to float32.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from diffusers import FluxKontextPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from editing.editors.lora import (
    AdapterError,
    adapter_config,
    adapter_parameters,
    attach_lora,
    check_arrays,
    check_fit,
    copy_arrays,
    detach_lora,
    finite,
    views,
)
from locus.common.files import write_whole

PREFIX = "transformer."
OWN_METADATA_KEY = "locus"


def export_adapter(transformer: nn.Module, folder: str | Path, metadata: Mapping[str, Any]) -> Path:
    """Writes `folder/pytorch_lora_weights.safetensors` and returns its path; the file appears whole or not
    at all.

    Rank, alpha (= rank) and targets go into the header where `load_lora_weights` looks for them. `metadata` (JSON
    values: run, step, base model, ...) goes beside them.

    Raises:
        AdapterError: when the transformer has no adapter, or one too strong for float32.
    """
    parameters = adapter_parameters(transformer)
    if not parameters:
        raise AdapterError("There is nothing to export: the transformer has no adapter.")
    config = adapter_config(transformer)
    arrays = dict(finite(scaled(views(parameters), config.lora_alpha / config.r)))
    # Only what makes the adapter: further fields differ between peft versions, which refuse those they do
    # not know.
    settings = {"r": config.r, "lora_alpha": config.r, "target_modules": config.target_modules}
    header = {
        "format": "pt",
        LORA_ADAPTER_METADATA_KEY: json.dumps({PREFIX + name: value for name, value in settings.items()}),
        OWN_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True),
    }
    folder = Path(folder)

    def save(weights: dict[str, Tensor], filename: str) -> None:
        write_whole(Path(filename), canonical(safetensors.torch.save(weights, metadata=header)))

    FluxKontextPipeline.save_lora_weights(
        folder,
        transformer_lora_layers={name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
        save_function=save,
    )
    return folder / str(LORA_WEIGHT_NAME_SAFE)


def scaled(arrays: Mapping[str, NDArray[np.float32]], factor: float) -> dict[str, NDArray[np.float32]]:
    """Adapter weights with every B times `factor`, rounded once to float32; an overflow gives infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: (array.astype(np.float64) * factor).astype(np.float32) if ".lora_B." in name else array
            for name, array in arrays.items()
        }


def canonical(content: bytes) -> bytes:
    """A safetensors file with the keys of its header sorted: the library writes metadata in an order of its own, which
    differs from call to call, and equal adapters should be equal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned
    return len(header).to_bytes(8, "little") + header + content[end:]


def load_adapter(transformer: nn.Module, folder: str | Path) -> dict[str, Any]:
    """Puts an exported adapter on the transformer and returns the metadata it was exported with.

    The transformer may have no adapter (one is attached, with the file's alpha) or one of the same rank and targets;
    where its alpha is another, B is scaled so that B A alpha / rank is that of the file.

    Raises:
        AdapterError: when the folder has no safetensors file written by `export_adapter`, or it does not fit.
    """
    path = Path(folder) / LORA_WEIGHT_NAME_SAFE
    if not path.is_file():
        raise AdapterError(
            f"An adapter folder holds {LORA_WEIGHT_NAME_SAFE}, but there is no {path}; no other format is read."
        )
    arrays, settings, own = _read(path)
    if not adapter_parameters(transformer):
        attach_lora(transformer, settings["r"], settings["lora_alpha"], 0, settings["target_modules"])
        try:
            check_arrays(transformer, arrays)
        except AdapterError:
            detach_lora(transformer)
            raise
    else:
        config = adapter_config(transformer)
        present, exported = (
            {"r": r, "target_modules": targets}
            for r, targets in ((config.r, config.target_modules), (settings["r"], settings["target_modules"]))
        )
        if present != exported:
            raise AdapterError(f"The transformer's adapter has {present}, but {path} was exported with {exported}.")
        if config.lora_alpha != settings["lora_alpha"]:
            check_fit(adapter_parameters(transformer), arrays)
            arrays = scaled(arrays, settings["lora_alpha"] / config.lora_alpha)
    copy_arrays(transformer, arrays)
    return own


def _read(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any], dict[str, Any]]:
    """Arrays without prefix, LoRA settings (r, lora_alpha, target_modules), and our own metadata."""
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise AdapterError(f"{path} is not a whole safetensors file: {error}") from error
    foreign = sorted(name for name in arrays if not name.startswith(PREFIX))
    if foreign or LORA_ADAPTER_METADATA_KEY not in header:
        raise AdapterError(
            f"{path} was not written by export_adapter: expected names starting with {PREFIX!r} and a header "
            f"entry {LORA_ADAPTER_METADATA_KEY!r}, got {len(foreign)} other names {foreign[:3]} and the "
            f"header entries {sorted(header)}."
        )
    packed = json.loads(header[LORA_ADAPTER_METADATA_KEY])
    return (
        {name.removeprefix(PREFIX): array for name, array in arrays.items()},
        {name: packed[PREFIX + name] for name in ("r", "lora_alpha", "target_modules")},
        json.loads(header.get(OWN_METADATA_KEY, "{}")),
    )
