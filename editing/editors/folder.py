"""A model folder in diffusers format, read without loading it: paths, sizes and shapes. Light: no torch.

Weights are not read, only the headers of their safetensors files
(https://github.com/huggingface/safetensors#format: eight bytes of length, then JSON).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILT_IN = "shapes"
"""The path that means the embedded base editor."""

ATTENTION = (
    r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|single_transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v)"
)
"""Regular expression (matched whole) of the attention projections of FLUX's double and single blocks.

Those that RC-GRPO-Editing trains (arXiv 2604.09386: "LoRA on the attention projections"; the set of Edit-R1
and CoCoEdit). Single blocks have no output projection of their own: their `proj_out` also carries the MLP.
"""
MLP = r"transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
"""The MLPs of the image tokens in double blocks, and those of single blocks. Flow-GRPO's set for FLUX, less the MLPs of
the text tokens, which double blocks alone have, and with single blocks, which it leaves out."""
TARGETS: Mapping[str, str] = {"attention": ATTENTION, "attention_mlp": f"{ATTENTION}|{MLP}"}
"""What `editor.lora.targets` names."""

PIPELINE_TEXT_TOKENS = 512
"""FluxKontextPipeline's own default length of the T5 sequence."""
CACHED_CONDITIONS = 1024
"""Number of encoded tasks that an editor caches."""

PARTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
LONGEST_HEADER = 100_000_000  # the format's own limit

Shape = tuple[int, ...]


class FolderError(ValueError):
    """A model folder cannot be read; the message names the file."""


def resolve_editor(path: str | Path) -> Path:
    """The folder of an editor: the embedded base for `shapes`, otherwise the path itself."""
    if str(path) == BUILT_IN:
        return Path(__file__).parents[1] / "shapes" / "base"
    return Path(path)


@dataclass(frozen=True)
class EditorSizes:
    """Sizes of a FLUX Kontext editor, from its folder.

    Attributes:
        parameters: number of weights per part (`PARTS`).
        adapted: (inputs, outputs) of every linear layer that the adapter acts on, by name.
        width: of the transformer's tokens (hidden size).
        double, single: number of its blocks of either kind.
        channels: C, of a packed latent token.
        text_width, pooled_width: of the condition.
        text_tokens: V, the padded length of the text, as an editor takes it by default.
        pixels_per_token: side of the square of pixels that is one token.
        vae_channels: of the decoder's last stage at full resolution.
    """

    parameters: Mapping[str, int]
    adapted: Mapping[str, tuple[int, int]]
    width: int
    double: int
    single: int
    channels: int
    text_width: int
    pooled_width: int
    text_tokens: int
    pixels_per_token: int
    vae_channels: int

    def adapter_parameters(self, rank: int) -> int:
        """Weights of a LoRA adapter of this rank: A [rank, inputs] and B [outputs, rank] per layer."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.adapted.values())


def editor_sizes(path: str | Path, targets: str = ATTENTION) -> EditorSizes:
    """The sizes of the editor in a folder, with an adapter of the modules that match `targets`.

    Raises:
        FolderError: when a file is missing, unreadable, or of another pipeline.
    """
    folder = resolve_editor(path)
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    if pipeline != "FluxKontextPipeline":
        raise FolderError(
            f"{folder / 'model_index.json'} names the pipeline {pipeline!r}; sizes are known for: FluxKontextPipeline"
        )
    shapes = {part: tensor_shapes(folder / part) for part in PARTS}
    transformer, vae = (read_json(folder / part / "config.json") for part in ("transformer", "vae"))
    tokenizer = read_json(folder / "tokenizer_2" / "tokenizer_config.json")
    adapted = {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in shapes["transformer"].items()
        if name.endswith(".weight") and re.fullmatch(targets, name.removesuffix(".weight"))
    }
    try:
        stages = vae["block_out_channels"]
        return EditorSizes(
            parameters={part: sum(map(math.prod, found.values())) for part, found in shapes.items()},
            adapted=adapted,
            width=transformer["attention_head_dim"] * transformer["num_attention_heads"],
            double=transformer["num_layers"],
            single=transformer["num_single_layers"],
            channels=transformer["in_channels"],
            text_width=transformer["joint_attention_dim"],
            pooled_width=transformer["pooled_projection_dim"],
            text_tokens=int(min(PIPELINE_TEXT_TOKENS, tokenizer.get("model_max_length", PIPELINE_TEXT_TOKENS))),
            pixels_per_token=2 ** len(stages),
            vae_channels=stages[min(1, len(stages) - 1)],
        )
    except KeyError as error:
        raise FolderError(f"the configurations of transformer and vae in {folder} lack the key {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; FolderError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise FolderError(f"{path}: expected a JSON object, got a {type(found).__name__}")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those that its index lists, or the only one.

    Raises:
        FolderError: when there is neither an index nor exactly one such file, or the index is none.
    """
    index = sorted(folder.glob("*.safetensors.index.json"))
    if len(index) == 1:
        files = read_json(index[0]).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise FolderError(f"{index[0]}: expected a weight_map from names of weights to files, got none")
        return [folder / name for name in sorted(set(files.values()))]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise FolderError(f"{folder}: expected one .safetensors file, or an index of several, got {len(found)}")
    return found


def tensor_shapes(folder: Path) -> dict[str, Shape]:
    """The shape of every weight of a model folder, by name.

    Raises:
        FolderError: as `weight_files`, or when a header cannot be read.
    """
    return {name: tuple(entry["shape"]) for name, entry in _headers(folder).items()}


def stored_bytes(folder: Path) -> int:
    """Stored size of all weights of a model folder in bytes; FolderError as `tensor_shapes`."""
    return sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in _headers(folder).values())


def _headers(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in weight_files(folder):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                content = file.read(min(length, LONGEST_HEADER))
            if len(content) < length:
                raise ValueError(f"expected a header of {length} bytes")
            header = json.loads(content)
            if not isinstance(header, dict):
                raise ValueError("expected a header that is a JSON object")
        except (OSError, ValueError) as error:
            raise FolderError(f"{path} cannot be read as safetensors ({error})") from error
        header.pop("__metadata__", None)
        found |= header
    return found
