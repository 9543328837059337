"""Embedding models of transformers: images and texts in, unit vectors in float32 out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from configs.rewards import EmbeddingModelConfig
from editing.editors.policy import pick_device
from rewards.embedding.folder import EmbeddingError, advice, checked_folder, preprocessing
from rewards.embedding.pixels import model_input, patch_grid, squared


class ImageText:
    """CLIP or SigLIP. Usable from several threads, one call at a time."""

    def __init__(self, folder: Path, model: Any, tokenizer: Any, batch_size: int) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._rules, self._lock = preprocessing(folder), threading.Lock()
        self._side = int(model.config.vision_config.image_size)
        self._longest = int(model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to their full length, without a mask, and takes the last place.
        self._masked = model.config.model_type == "clip"

    def images(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit embeddings float32 [N, D] of images uint8 [N, H, W, 3] of any proportions, on the CPU."""
        values = squared(images, self._rules)

        def embedded(batch: NDArray[np.uint8]) -> Tensor:
            pixels = model_input(batch, self._side, self._side, self._rules).to(self._model.device, self._model.dtype)
            return _unit(self._model.get_image_features(pixel_values=pixels).pooler_output)

        return _in_batches(values, self._batch_size, embedded, self._lock)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings float32 [n, D] on the CPU; what is longer than the model reads is cut off at its end."""
        # Lower case: CLIP's tokenizer makes it so anyway, SigLIP's training did.
        found = self._tokenizer(
            [text.lower() for text in texts],
            padding="max_length",
            max_length=self._longest,
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        )
        given = {"input_ids": found["input_ids"]} | (
            {"attention_mask": found["attention_mask"]} if self._masked else {}
        )
        with self._lock, torch.inference_mode():
            return _unit(
                self._model.get_text_features(
                    **{name: value.to(self._model.device) for name, value in given.items()}
                ).pooler_output
            )


class Patches:
    """DINOv2 or DINOv3. Usable from several threads, one call at a time."""

    def __init__(self, folder: Path, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._rules, self._lock = preprocessing(folder), threading.Lock()
        self._patch, self._side = int(model.config.patch_size), int(model.config.image_size)

    def patches(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit embeddings float32 [N, rows, columns, D] of the patches of images uint8 [N, H, W, 3], on the CPU.

        The whole image is seen in its own proportions: the crop of the models' image processors leaves its borders
        out. Class and register tokens, which come first, are not patches.
        """
        _, height, width, _ = images.shape
        rows, columns = patch_grid(height, width, self._patch, self._side)

        def embedded(batch: NDArray[np.uint8]) -> Tensor:
            pixels = model_input(batch, rows * self._patch, columns * self._patch, self._rules)
            tokens = self._model(pixel_values=pixels.to(self._model.device, self._model.dtype)).last_hidden_state
            return _unit(tokens[:, -rows * columns :].unflatten(1, (rows, columns)))

        return _in_batches(images, self._batch_size, embedded, self._lock)


def load_image_text(config: EmbeddingModelConfig) -> ImageText:
    """The model of `rewards.embedding.clip`; loaded once per process and settings.

    Raises:
        EmbeddingError: when a file is missing or cannot be read.
    """
    folder = checked_folder("clip", config.path)
    model, tokenizer = _loaded("clip", str(folder.resolve()), config.device, config.dtype)
    return ImageText(folder, model, tokenizer, config.batch_size)


def load_patches(config: EmbeddingModelConfig) -> Patches:
    """The model of `rewards.embedding.dino`; loaded once per process and settings. Raises as `load_image_text`."""
    folder = checked_folder("dino", config.path)
    model, _ = _loaded("dino", str(folder.resolve()), config.device, config.dtype)
    return Patches(folder, model, config.batch_size)


@lru_cache(maxsize=4)
def _loaded(kind: str, path: str, device: str, dtype: str) -> tuple[Any, Any]:
    """The model on its device and its tokenizer (None without texts), from these files alone."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    place, tokenizer = pick_device(device, f"rewards.embedding.{kind}.device"), None
    try:
        model, loading = AutoModel.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if loading["missing_keys"]:  # which transformers would draw at random
            raise ValueError(
                f"{len(loading['missing_keys'])} weights are missing, such as {min(loading['missing_keys'])}"
            )
        if kind == "clip":
            # A tokenizer.json is complete by itself; what else there is takes the packages that its class needs.
            fast = (Path(path) / "tokenizer.json").is_file()
            tokenizer = (PreTrainedTokenizerFast if fast else AutoTokenizer).from_pretrained(
                path, local_files_only=True
            )
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EmbeddingError(
            f"rewards.embedding.{kind}.path: {path} cannot be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); {advice(kind, path)}"
        ) from error
    return model.requires_grad_(False).eval().to(place), tokenizer


def _in_batches(
    images: NDArray[np.uint8], size: int, embedded: Callable[[NDArray[np.uint8]], Tensor], lock: threading.Lock
) -> Tensor:
    with lock, torch.inference_mode():
        return torch.cat([embedded(images[start : start + size]) for start in range(0, len(images), size)])


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float(), dim=-1).cpu()
