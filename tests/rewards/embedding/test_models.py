"""Embedding models: batches, padding, one copy per process, no network."""

import shutil
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from configs.rewards import EmbeddingModelConfig
from rewards.embedding import models
from rewards.embedding.folder import EmbeddingError
from rewards.embedding.models import load_image_text, load_patches

LOAD = {"clip": load_image_text, "siglip": load_image_text, "dinov2": load_patches, "dinov3": load_patches}


def settings(folder, **fields) -> EmbeddingModelConfig:
    return EmbeddingModelConfig(path=str(folder), device="cpu", **fields)


def random_images(number: int, height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (number, height, width, 3), dtype=np.uint8)


def embedded(model, images: np.ndarray) -> torch.Tensor:
    return model.images(images) if hasattr(model, "images") else model.patches(images)


@pytest.mark.parametrize("kind", LOAD)
def test_an_image_has_its_embedding_whatever_is_embedded_with_it(tiny, kind):
    images = random_images(7)
    found = embedded(LOAD[kind](settings(tiny(kind))), images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(
        embedded(LOAD[kind](settings(tiny(kind), batch_size=3)), images), found, atol=1e-5, rtol=0
    )
    alone = torch.cat([embedded(LOAD[kind](settings(tiny(kind))), images[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, found, atol=1e-5, rtol=0)
    assert (found[0] - found[1]).norm() > 0.05  # and images are told apart


@pytest.mark.parametrize(("kind", "grid"), [("dinov2", (3, 5)), ("dinov3", (3, 5))])
def test_patches_are_those_of_the_whole_image_without_class_and_register_tokens(tiny, kind, grid):
    images = random_images(2)
    found = load_patches(settings(tiny(kind))).patches(images)
    assert found.shape[1:3] == grid
    changed = images.copy()
    changed[0, -8:, -8:] ^= 255  # the last corner, which a centre crop would not show
    moved = (load_patches(settings(tiny(kind))).patches(changed) - found)[0].norm(dim=-1)
    assert moved.argmax() == moved.numel() - 1


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_has_the_embedding_of_the_model_as_it_was_trained(tiny, kind):
    """CLIP: whatever the padding. SigLIP: padded to its full length, and without a mask."""
    model = load_image_text(settings(tiny(kind)))
    both = model.texts(["A red CAT", "the blue circle with a hat"])
    torch.testing.assert_close(model.texts(["a red cat"])[0], both[0], atol=1e-5, rtol=0)
    reference = AutoModel.from_pretrained(tiny(kind)).eval()
    ids = [2, 4, 9, 11, 3]  # <bos> a red cat <eos>
    given = torch.tensor([ids + [0] * (12 - len(ids)) if kind == "siglip" else ids])
    with torch.inference_mode():
        expected = reference.get_text_features(input_ids=given).pooler_output[0]
    torch.testing.assert_close(both[0], expected / expected.norm(), atol=1e-5, rtol=0)
    assert torch.isfinite(model.texts(["cat " * 100])).all()  # cut off


def test_components_with_one_path_share_one_model(tiny):
    one, two = (load_image_text(settings(tiny("clip"), batch_size=size)) for size in (1, 8))
    assert one._model is two._model
    assert load_image_text(settings(tiny("clip"), dtype="bfloat16"))._model is not one._model


@pytest.mark.parametrize("kind", LOAD)
def test_reduced_precision_gives_about_the_same_in_float32(tiny, kind):
    images = random_images(3)
    exact = embedded(LOAD[kind](settings(tiny(kind))), images)
    reduced = embedded(LOAD[kind](settings(tiny(kind), dtype="bfloat16")), images)
    assert reduced.dtype == torch.float32
    assert (exact * reduced).sum(dim=-1).min() > 0.98


def test_nothing_is_fetched(tiny, monkeypatch):
    tried = []

    def connect(*address):
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    models._loaded.cache_clear()
    load_image_text(settings(tiny("siglip"))).texts(["a red cat"])
    load_patches(settings(tiny("dinov3"))).patches(random_images(1))
    assert tried == []
    with pytest.raises(EmbeddingError, match="expected a folder"):
        load_image_text(EmbeddingModelConfig(path="openai/clip-vit-large-patch14"))
    assert tried == []


def test_weights_that_cannot_be_read_are_a_sentence(tiny, tmp_path):
    folder = shutil.copytree(tiny("dinov2"), tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EmbeddingError, match=r"rewards\.embedding\.dino\.path: .*cut cannot be loaded"):
        load_patches(settings(folder))


def test_missing_weights_are_not_drawn_at_random(tiny, tmp_path):
    folder = shutil.copytree(tiny("dinov2"), tmp_path / "gap")
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbeddingError, match=r"1 weights are missing, such as layernorm\.weight"):
        load_patches(settings(folder))
