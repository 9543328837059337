"""Folders of embedding models: their required files, and preprocessing. Reads JSON, loads nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.components import EMBEDDINGS
from configs.rewards import RewardsConfig
from editing.editors.folder import FolderError, read_json, weight_files

MODEL_TYPES: Mapping[str, tuple[str, ...]] = {
    "clip": ("clip", "siglip"),
    "dino": ("dinov2", "dinov2_with_registers", "dinov3_vit"),
}
"""What `model_type` in config.json may say. SigLIP 2 of a fixed resolution calls itself siglip."""
SUGGESTED: Mapping[str, str] = {"clip": "openai/clip-vit-large-patch14", "dino": "facebook/dinov2-base"}
"""Repositories on the Hugging Face hub that hold all these files and ask for no licence to be accepted."""
TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
"""Any of these makes a tokenizer."""
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


class EmbeddingError(ValueError):
    """An embedding model cannot be used; the sentence names its key, what is missing and what to type."""


@dataclass(frozen=True)
class Preprocessing:
    """How 8-bit RGB becomes the model's input: resized by `resample` (Pillow's number), (x * scale - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    resample: int


def check_embeddings(config: RewardsConfig) -> None:
    """Returns when the folder of every model behind a weighted component holds what is needed.

    Raises:
        EmbeddingError: for the first that does not.
    """
    for model in weighted_models(config):
        checked_folder(model, getattr(config.embedding, model).path)


def weighted_models(config: RewardsConfig) -> list[str]:
    """The embedding models, `clip` and `dino`, behind components that have a weight other than 0."""
    return sorted({EMBEDDINGS[name] for name, weight in config.weights.items() if weight and name in EMBEDDINGS})


def checked_folder(model: str, path: str) -> Path:
    """The folder of the model `clip` or `dino`, complete and of a known type.

    Raises:
        EmbeddingError: otherwise.
    """
    folder = Path(path)
    try:
        found = read_json(folder / "config.json").get("model_type")
        if found not in MODEL_TYPES[model]:
            raise EmbeddingError(
                f"rewards.embedding.{model}.path: expected a model of type "
                f"{' or '.join(MODEL_TYPES[model])} in {folder / 'config.json'}, got {found!r}; "
                f"{advice(model, path)}"
            )
        files = weight_files(folder)
        preprocessing(folder)
    except FolderError as error:
        raise _incomplete(model, path, str(error)) from error
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise _incomplete(model, path, f"{missing[0]} does not exist")
    if model == "clip" and not any((folder / name).is_file() for name in TOKENIZERS):
        raise _incomplete(model, path, f"{folder} has no tokenizer")
    return folder


def preprocessing(folder: Path) -> Preprocessing:
    """What the model's folder says of its input.

    Raises:
        FolderError: when no file says it.
    """
    # Saved together with a tokenizer, the image processor's settings are a section of the processor's.
    path = next((folder / name for name in PREPROCESSING if (folder / name).is_file()), folder / PREPROCESSING[0])
    found: dict[str, Any] = read_json(path)
    found = found.get("image_processor", found)
    try:
        mean, std = (
            (float(red), float(green), float(blue)) for red, green, blue in (found["image_mean"], found["image_std"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path} should hold image_mean and image_std, three numbers each") from error
    return Preprocessing(mean, std, float(found.get("rescale_factor", 1 / 255)), int(found.get("resample", 3)))


def advice(model: str, path: str) -> str:
    """What to type to get a model that fits."""
    # Without the patterns the same weights come in other formats, too.
    return (
        f"to download one, type: hf download {SUGGESTED[model]} --include '*.json' --include '*.safetensors' "
        f"--local-dir {shlex.quote(path)}"
    )


def _incomplete(model: str, path: str, why: str) -> EmbeddingError:
    texts = " and tokenizer.json" if model == "clip" else ""
    return EmbeddingError(
        f"rewards.embedding.{model}.path: expected a folder with config.json, preprocessor_config.json, "
        f"model.safetensors (or its index and parts){texts}, got {path}, of which {why}; {advice(model, path)}"
    )
