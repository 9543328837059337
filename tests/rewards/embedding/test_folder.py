"""What is said of folders that lack something, before anything is loaded."""

import json
import shlex
import shutil

import pytest

from configs.load import load_config
from learner.main import main
from rewards.embedding.folder import EmbeddingError, check_embeddings, checked_folder, preprocessing


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of a tiny model's folder, with a blank in its name."""
    return lambda kind: shutil.copytree(tiny(kind), tmp_path / "my models")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("config.json", "config.json cannot be read"),
        ("preprocessor_config.json", "preprocessor_config.json cannot"),
        ("model.safetensors", "expected one .safetensors file"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_missing_file_is_named_with_what_to_type(copy, file, why):
    folder = copy("clip")
    (folder / file).unlink()
    with pytest.raises(EmbeddingError) as caught:
        checked_folder("clip", str(folder))
    said = str(caught.value)
    assert said.startswith("rewards.embedding.clip.path: expected a folder with config.json") and why in said
    words = shlex.split(said.partition("type: ")[2])
    assert words[:3] == ["hf", "download", "openai/clip-vit-large-patch14"]
    assert words[-2:] == ["--local-dir", str(folder)]


def test_a_part_that_the_index_names_is_missed(copy):
    folder = copy("dinov2")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    with pytest.raises(EmbeddingError, match=r"model-00002-of-00002\.safetensors does not exist.*facebook/dinov2-base"):
        checked_folder("dino", str(folder))


def test_pickled_weights_are_no_weights(copy):
    folder = copy("dinov2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EmbeddingError, match=r"expected one \.safetensors file"):
        checked_folder("dino", str(folder))


def test_a_model_of_another_kind_is_refused(tiny):
    with pytest.raises(EmbeddingError, match=r"expected a model of type clip or siglip in .*, got 'dinov2'"):
        checked_folder("clip", str(tiny("dinov2")))


def test_settings_that_were_saved_with_a_tokenizer_are_found(copy):
    folder = copy("clip")
    expected = preprocessing(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert preprocessing(folder) == expected


def test_only_weighted_components_need_their_model():
    flags = ["--rewards.embedding.clip.path", "/nowhere", "--rewards.weights"]
    with pytest.raises(EmbeddingError, match="/nowhere"):
        check_embeddings(load_config([*flags, "{clip_text: 1}"]).rewards)
    check_embeddings(load_config([]).rewards)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_without_its_weights_stops_before_there_is_a_folder(more, tmp_path, capsys):
    assert main(["--folder", str(tmp_path), "--rewards.embedding.clip.path", str(tmp_path / "no"), *more]) == 2
    assert "rewards.embedding.clip.path: expected a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
