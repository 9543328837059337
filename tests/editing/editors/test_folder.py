"""Sizes of a model folder against the models that are loaded from it."""

import json
import struct

import pytest
from safetensors.torch import load_file, save_file

from editing.editors import folder
from editing.editors.load import load_editor
from editing.editors.lora import adapter_parameters, attach_lora


@pytest.mark.parametrize("which", ["tiny", "shapes"])
def test_weights_are_counted_as_they_are_loaded(tiny_kontext, which):
    path = tiny_kontext if which == "tiny" else "shapes"
    sizes, editor = folder.editor_sizes(path), load_editor(path)
    pipeline = editor.pipeline
    for part in folder.PARTS:
        assert sizes.parameters[part] == sum(p.numel() for p in getattr(pipeline, part).parameters()), part
    assert sizes.width == editor.transformer.inner_dim
    assert (sizes.double, sizes.single) == (
        len(editor.transformer.transformer_blocks),
        len(editor.transformer.single_transformer_blocks),
    )
    assert sizes.text_tokens == editor.max_text_tokens
    assert sizes.pixels_per_token == 2 * pipeline.vae_scale_factor
    assert sizes.channels == 4 * pipeline.latent_channels


@pytest.mark.parametrize("targets", folder.TARGETS.values())
def test_the_adapter_is_counted_as_it_is_attached(tiny_kontext, targets):
    transformer = load_editor(tiny_kontext).transformer
    modules = attach_lora(transformer, rank=3, alpha=3, seed=0, targets=targets)
    sizes = folder.editor_sizes(tiny_kontext, targets)
    assert len(sizes.adapted) == modules
    assert sizes.adapter_parameters(3) == sum(p.numel() for p in adapter_parameters(transformer).values())


def test_parts_in_several_files_are_added(tiny_kontext, tmp_path):
    weights = load_file(tiny_kontext / "vae" / "diffusion_pytorch_model.safetensors")
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, half in halves.items():
        save_file({one: weights[one] for one in half}, tmp_path / name)
    index = {"weight_map": {one: name for name, half in halves.items() for one in half}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert folder.tensor_shapes(tmp_path) == folder.tensor_shapes(tiny_kontext / "vae")
    assert folder.stored_bytes(tmp_path) == sum(one.numel() * one.element_size() for one in weights.values())


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(folder.FolderError, match=f"{path} cannot be read as safetensors"):
        folder.tensor_shapes(tmp_path)


def test_a_folder_without_weights_or_of_another_pipeline_is_a_sentence(tmp_path):
    with pytest.raises(folder.FolderError, match=r"model_index.json cannot be read"):
        folder.editor_sizes(tmp_path)
    with pytest.raises(folder.FolderError, match=r"expected one \.safetensors file, or an index of several, got 0"):
        folder.weight_files(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(folder.FolderError, match="StableDiffusionPipeline"):
        folder.editor_sizes(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(folder.FolderError, match="expected a JSON object, got a list"):
        folder.editor_sizes(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": 5}, {"weight_map": {"x": 1}}])
def test_an_index_that_is_none_is_a_sentence(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(folder.FolderError, match="expected a weight_map from names of weights to files"):
        folder.weight_files(tmp_path)
