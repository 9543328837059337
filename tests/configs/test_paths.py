"""User-supplied paths: expanded wherever one is read, or rejected by the name of what is missing."""

import argparse
import ast
import json
from pathlib import Path

import pytest
import yaml

from configs.errors import ConfigError
from configs.layers import Layers, find_config, merged
from configs.load import load_config, to_yaml
from configs.paths import expanded, path_argument
from configs.schema import RunConfig
from configs.tree import sections

ROOT = Path(__file__).parents[2]
NAMES = ("path", "folder", "photo_folder", "held_out_path", "lora", "python")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch/ada")
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("~/x", "HOME/x"),
        ("~", "HOME"),
        ("$SCRATCH/x", "/scratch/ada/x"),
        ("${SCRATCH}x", "/scratch/adax"),
        ("a/~/b", "a/~/b"),
        ("a b/ü", "a b/ü"),
        ("5$", "5$"),
        ("", ""),
        ("shapes", "shapes"),
    ],
)
def test_home_and_variables_are_replaced(home, text, says):
    assert expanded(text) == says.replace("HOME", str(home))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$NOWHERE/x", "NOWHERE is not \\(export NOWHERE=..., or write out the path\\)"),
        ("x/${NOWHERE}", "NOWHERE is not"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name is no user on this machine"),
        ("a\0b", "without a null byte"),
    ],
)
def test_what_cannot_be_replaced_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        expanded(text)


def test_an_empty_variable_is_none_and_a_token_is_not_repeated(monkeypatch):
    monkeypatch.setenv("NOWHERE", "")
    with pytest.raises(ValueError, match="NOWHERE is not"):
        expanded("$NOWHERE/x")
    monkeypatch.setenv("NOWHERE", "hf_" + "a1" * 12)
    with pytest.raises(ValueError, match="NOWHERE holds what looks like an access token") as caught:
        expanded("$NOWHERE/x")
    assert "a1a1" not in str(caught.value)


def path_keys():
    return [
        (section.variant, key.path)
        for section in sections()
        for key in section.keys
        if key.path.rsplit(".", 1)[-1] in NAMES
    ]


@pytest.mark.parametrize(("variant", "key"), path_keys())
@pytest.mark.parametrize("how", ["flag", "yaml"])
def test_every_key_that_is_a_path_is_expanded_or_refused(variant, key, how, tmp_path):
    needed = {}
    if variant:
        needed[variant[0]] = variant[1]
    if variant == ("data.type", "manifest"):
        needed |= {
            "data.path": "m.jsonl",
            "rewards.weights": {"background_psnr": 1},
            "algorithm.preservation.velocity_weight": 1,
        }
    if "dino" in key:
        needed = {"rewards.weights": {"dino_background": 1, "edit_score": 1}}

    def config(value):
        if how == "flag":
            return load_config(
                [
                    word
                    for name, one in {**needed, key: value}.items()
                    for word in (f"--{name}", one if isinstance(one, str) else json.dumps(one))
                ]
            )
        layers = Layers()
        for name, one in {**needed, key: value}.items():
            for part in reversed(name.split(".")):
                one = {part: one}
            layers.values = merged(RunConfig, layers.values, one)
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(layers.values))
        return load_config(["--config", str(tmp_path / "own.yaml")])

    dumped = config("$SCRATCH/x").model_dump()
    for name in key.split("."):
        dumped = dumped[name]
    assert dumped == "/scratch/ada/x"
    with pytest.raises(ConfigError) as caught:
        config("$NOWHERE/x")
    assert any(
        fault.startswith(f"{key}: expected a path whose variables are set, but NOWHERE is not")
        and "got '$NOWHERE/x' (set by" in fault
        for fault in caught.value.faults
    )


def test_there_are_keys_to_check():
    assert {
        "folder",
        "editor.path",
        "data.path",
        "data.held_out_path",
        "data.photo_folder",
        "rewards.judge.editscore.serve.python",
        "rewards.embedding.clip.path",
    } <= {key for _, key in path_keys()}


def test_what_is_written_down_is_expanded_once_and_for_all(home, monkeypatch, tmp_path):
    config = load_config(["--folder", "~/runs", "--data.photo_folder", "$SCRATCH/photos"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    monkeypatch.setenv("SCRATCH", "/elsewhere")
    assert load_config(["--config", str(tmp_path / "config.yaml")]) == config
    assert config.folder == f"{home}/runs" and RunConfig.model_validate(config.model_dump()) == config


def test_a_configuration_is_found_at_home_too(home):
    home.mkdir()
    (home / "own.yaml").write_text("seed: 3\n")
    assert find_config("~/own.yaml", "--config") == home / "own.yaml"
    with pytest.raises(ConfigError, match=r"--config \$NOWHERE/own\.yaml: expected a path whose variables are set"):
        find_config("$NOWHERE/own.yaml", "--config")


def test_arguments_that_are_paths_are_read_in_the_same_way(home):
    assert path_argument("~/x") == home / "x"
    with pytest.raises(argparse.ArgumentTypeError, match=r"NOWHERE is not .*, got '\$NOWHERE'"):
        path_argument("$NOWHERE")
    plain = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in (
            "locus",
            "configs",
            "editing",
            "actors",
            "rewards",
            "cluster",
            "learner",
            "evaluation",
        )
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "type" and ast.unparse(node.value) == "Path"
    ]
    assert plain == []
