"""CLIP, SigLIP, DINOv2 and DINOv3 of a few thousand random parameters in folders of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from editing.editors.tokenizers import build_clip_tokenizer

WORDS = ("a", "photo", "make", "the", "circle", "red", "blue", "cat", "left", "with", "hat")
LENGTH = 12
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def make_tiny(folder: Path, kind: str) -> Path:
    """Writes weights, configuration, preprocessing and, where there are texts, a word-level tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(kind)
        for parameter in model.parameters():  # drawn large, so that every input moves the embedding
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "resample": 3, "rescale_factor": 1 / 255})
    )
    if kind in ("clip", "siglip"):
        build_clip_tokenizer(WORDS, LENGTH).save_pretrained(folder)
    return folder


def _model(kind: str) -> PreTrainedModel:
    text: dict[str, Any] = {
        **SMALL,
        "vocab_size": len(WORDS) + 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    if kind == "siglip":
        return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    if kind == "dinov2":
        return Dinov2Model(
            Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
        )
    return DINOv3ViTModel(DINOv3ViTConfig(**SMALL, image_size=64, patch_size=16, num_register_tokens=4))
