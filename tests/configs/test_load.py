"""From arguments and YAML to one configuration: layers, did-you-mean, sentences, secrets, hash."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError, nearest
from configs.layers import TOKEN, Layers, parse_yaml
from configs.load import config_hash, load_config, parse_command_line, to_yaml
from configs.schema import ManifestData, RunConfig, ShapesData
from configs.tree import known_paths
from configs.validate import validated


def faults(*argv: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(argv)
    assert all("\n" not in fault for fault in caught.value.faults)
    return caught.value.faults


@pytest.fixture
def write(tmp_path: Path):
    def write_file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write_file


def test_nothing_given_is_the_quickstart_which_is_the_defaults():
    assert load_config([]) == RunConfig()


def test_flags_go_over_the_file_which_goes_over_what_it_extends(write):
    write("below.yaml", "learner: {steps: 7, groups_per_step: 3}\nseed: 5\n")
    top = write("top.yaml", "extends: below.yaml\nlearner:\n  steps: 8\n")
    config = load_config(["--config", top, "--seed", "6"])
    assert (config.learner.steps, config.learner.groups_per_step, config.seed) == (8, 3, 6)
    assert config.name == "top"  # a file without a name is named after itself


def test_values_are_typed_by_their_keys():
    config = load_config(
        [
            "--learner.optimizer.lr",
            "1e-4",
            "--editor.gradient-checkpointing=true",
            "--name",
            "2026",
            "--algorithm.trained-steps",
            "[0, 1]",
            "--editor.max-text-tokens",
            "null",
            "--data.photo_folder",
            "null",
            "--algorithm.type",
            "rc_grpo",
            "--algorithm.tau-power",
            "1",
            "--learner.optimizer.betas",
            "[0.9, 0.95]",
        ]
    )
    assert config.learner.optimizer.lr == 1e-4
    assert config.editor.gradient_checkpointing is True
    assert config.name == "2026"
    assert config.algorithm.trained_steps == (0, 1)
    assert config.editor.max_text_tokens is None and ShapesData.model_validate(config.data).photo_folder is None
    assert config.algorithm.tau_power == 1
    assert config.learner.optimizer.betas == (0.9, 0.95)


def test_a_dotted_flag_sets_one_entry_of_a_mapping_and_yaml_replaces_it_whole(write):
    default = RunConfig().rewards.weights
    assert load_config(["--rewards.weights.acd", "0.2"]).rewards.weights == {**default, "acd": 0.2}
    path = write("own.yaml", "rewards: {weights: {edit_score: 2}}\n")
    assert load_config(["--config", path]).rewards.weights == {"edit_score": 2.0}
    both = load_config(["--config", path, "--rewards.weights.acd", "0.2"])
    assert both.rewards.weights == {"edit_score": 2.0, "acd": 0.2}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_switching_the_type_drops_the_other_variants_fields(write, order):
    # pydantic-settings keeps them and fails.
    path = write("shapes.yaml", "data: {train_tasks: 9, photo_folder: x}\nrewards: {weights: {acd: 1}}\n")
    flags = [("--data.path", "m.jsonl"), ("--data.type", "manifest")]
    argv = ["--config", path, *(word for index in order for word in flags[index])]
    assert load_config(argv).data == ManifestData(path="m.jsonl")


def test_switching_the_type_between_files_drops_them_too(write):
    write("mine.yaml", "data: {type: manifest, path: m.jsonl, resolution: 64}\nrewards: {weights: {acd: 1}}\n")
    path = write("back.yaml", "extends: mine.yaml\ndata: {type: shapes, train_tasks: 9}\n")
    assert load_config(["--config", path]).data == ShapesData(train_tasks=9)


def test_naming_the_same_type_again_keeps_the_fields(write):
    path = write("mine.yaml", "data: {type: manifest, path: m.jsonl}\nrewards: {weights: {acd: 1}}\n")
    config = load_config(["--config", path, "--data.type", "manifest", "--data.resolution", "64"])
    assert config.data == ManifestData(path="m.jsonl", resolution=64)


def test_a_key_of_the_other_variant_says_how_to_switch():
    assert faults("--data.path", "m.jsonl") == (
        "data.path: expected only with data.type manifest, but data.type is shapes (set by --data.path); "
        "add --data.type manifest or remove it",
    )


def test_every_fault_is_one_sentence_with_key_expected_seen_and_origin(write):
    path = write("bad.yaml", "learner: {steps: 0}\ncluster: {mode: rey}\n")
    found = faults("--config", path, "--sampler.steps", "x")
    assert set(found) == {
        f"learner.steps: expected at least 1, got 0 (set by {path})",
        f"cluster.mode: expected 'ray' or 'inline', got 'rey' (set by {path})",
        "sampler.steps: expected a whole number, got 'x' (set by --sampler.steps)",
    }


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--learner.lr", "1"], "--learner.lr: unknown key; did you mean learner.optimizer.lr?"),
        (["--learner.optimiser.lr", "1"], "--learner.optimiser.lr: unknown key; did you mean learner.optimizer.lr?"),
        (["--learner.stepz", "1"], "--learner.stepz: unknown key; did you mean learner.steps?"),
        (["--learner.steps.x", "1"], "--learner.steps.x: unknown key; did you mean learner.steps?"),
        (["--qwertz", "1"], "--qwertz: unknown key; --help lists every key"),
        (["--dryrun"], "--dryrun: unknown flag; did you mean --dry-run?"),
        (["--confg", "my_images"], "--confg: unknown flag; did you mean --config?"),
        (["--confg"], "--confg: unknown flag; did you mean --config?"),
        (["--config"], "--config: expected a value after it; write --config VALUE"),
        (
            ["--config", "quikstart"],
            "--config quikstart: expected a preset or the path of a YAML file; did you mean quickstart?",
        ),
        (["--config", "no/such.yaml"], "--config no/such.yaml: expected a YAML file, but no/such.yaml does not exist"),
        (["--learner.steps"], "--learner.steps: expected a value after it; write --learner.steps VALUE"),
        (["--resume=yes"], "--resume: expected no value, got 'yes'"),
        (
            ["--allow-changed", "seed"],
            "--allow-changed: applies to a resumed run only; add --resume, or leave it out",
        ),
        (["--resume", "--allow-changed"], "--allow-changed: expected a value after it; write --allow-changed VALUE"),
        (
            ["--resume", "--allow-changed", "learner.optimiser.lr"],
            "--allow-changed learner.optimiser.lr: unknown key; did you mean learner.optimizer.lr?",
        ),
        (["--learner.steps", "true"], "learner.steps: expected a number, got True (set by --learner.steps)"),
        (
            ["--learner.optimizer.lr", ".inf"],
            "learner.optimizer.lr: expected a finite number, got inf (set by --learner.optimizer.lr)",
        ),
        (
            ["--learner.optimizer.betas", "[0.5]"],
            "learner.optimizer.betas: expected a list of 2 numbers, got [0.5] (set by --learner.optimizer.betas)",
        ),
        (
            ["--learner.optimizer.betas", "[0.9, 1.0]"],
            "learner.optimizer.betas: expected less than 1.0, got 1.0 (set by --learner.optimizer.betas)",
        ),
        (
            ["--data.held-out-split", "train"],
            "data.held_out_split: expected 'test' or 'validation', got 'train' (set by --data.held-out-split)",
        ),
        (["--data.type", "foo"], "data.type: expected shapes or manifest, got 'foo' (set by --data.type)"),
        (
            ["--rewards.weights.foo", "1"],
            "rewards.weights: unknown component 'foo'; expected some of ['acd', 'background_psnr', "
            "'background_ssim', 'clip_direction', 'clip_text', 'dino_background', 'edit_psnr', 'edit_score', "
            "'editscore', 'editscore_preservation', 'editscore_preservation_truth', 'editscore_success', "
            "'editscore_success_truth', 'editscore_truth', 'pixel_consistency', 'qwen_vl', 'rank'] "
            "(set by --rewards.weights.foo)",
        ),
    ],
)
def test_sentences(argv, sentence):
    assert faults(*argv) == (sentence,)


def test_a_word_that_is_no_flag_is_refused():
    assert "expected a flag" in faults("learner.steps", "3")[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learner.steps: 3\n", "expected nested sections; write learner: {steps: ...}"),
        ("learner: {stepz: 3}\n", "learner.stepz: unknown key; did you mean learner.steps?"),
        ("seed: 1\nseed: 2\n", "line 1: the key 'seed' appears 2 times"),
        ("- 1\n", "expected keys and values, got [1]"),
        ("a: [1\n", "expected YAML"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: !!python/object:os.system x\n", "expected YAML"),
        ("extends: 3\n", "extends: expected one preset name or path, got 3"),
        ("extends: self.yaml\n", "expected no cycle in `extends`"),
        ("1: 2\n", "expected keys that are text, got 1"),
        ("a: " + "[" * 3000, "expected"),
    ],
)
def test_faulty_files_name_themselves(write, text, says):
    path = write("self.yaml", text)
    fault = faults("--config", path)[0]
    assert fault.startswith(path) and says in fault


def test_an_unreadable_file_is_a_sentence(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    assert "expected UTF-8 text, got an invalid byte at offset 9" in faults("--config", str(tmp_path / "latin.yaml"))[0]


def test_plain_values_follow_yaml_1_2(write):
    path = write("a.yaml", "learner: {optimizer: {lr: 1e-3}}\nname: on\ndata: {photo_folder: 12:30}\n")
    config = load_config(["--config", path])
    assert config.learner.optimizer.lr == 1e-3 and config.name == "on"
    assert ShapesData.model_validate(config.data).photo_folder == "12:30"


SECRET = "hf_" + "aBcDeFgH12345678ijkl"


def test_a_literal_token_is_refused_and_not_repeated(write):
    path = write("a.yaml", f"name: a\neditor:\n  path: {SECRET}\n")
    for argv in (["--config", path], ["--editor.path", SECRET]):
        (fault,) = faults(*argv)
        assert "access token" in fault and SECRET not in fault and SECRET[3:] not in fault
    assert f"{path}, line 3" in faults("--config", path)[0]
    (comment,) = faults("--config", write("b.yaml", f"name: a  # {SECRET}\n"))
    assert "access token" in comment


@pytest.mark.parametrize(
    "text",
    [
        "black-forest-labs/FLUX.1-Kontext-dev",
        "hf_models",
        "runs/sk-learn-and-a-very-long-name",
        "hf_internal_testing_models",
    ],
)
def test_ordinary_names_are_no_tokens(text):
    assert TOKEN.search(text) is None


@pytest.mark.parametrize(
    "text", [SECRET, "sk-proj-" + "abcDEF123456789012345", "ghp_" + "a1" * 18, "AKIA" + "ABCDEFGH12345678"]
)
def test_tokens_are_seen(text):
    assert TOKEN.search(f"path: {text}")


def test_the_hash_ignores_name_and_folder_and_nothing_else():
    base = config_hash(RunConfig())
    assert config_hash(load_config(["--name", "other", "--folder", "/elsewhere"])) == base
    assert config_hash(load_config(["--seed", "1"])) != base
    assert config_hash(load_config(["--report.gallery-tasks", "1"])) != base
    # 64 and 64.0 are the same alpha.
    assert config_hash(load_config(["--editor.lora.alpha", "64"])) == base


def test_the_hash_is_of_canonical_json():
    values = RunConfig().model_dump(mode="json")
    del values["name"], values["folder"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    import hashlib

    assert config_hash(RunConfig()) == hashlib.sha256(text.encode()).hexdigest()


def test_the_resolved_yaml_reads_back_equal(write):
    config = load_config(["--config", "my_images", "--learner.optimizer.lr", "1e-5", "--data.path", "Bücher/1: x"])
    assert load_config(["--config", write("resolved.yaml", to_yaml(config))]) == config
    assert yaml.safe_load(to_yaml(config))["learner"]["optimizer"]["lr"] == 1e-5


def test_switches():
    line = parse_command_line(["--dry-run", "--resume", "--seed", "3"])
    assert (line.dry_run, line.resume, line.named, line.config.seed) == (True, True, False, 3)
    assert line.allowed == ()
    line = parse_command_line(
        [
            "--resume",
            *(
                word
                for key in ("code", "data", "rewards.weights.acd", "learner.optimizer", "learner.groups-per-step")
                for word in ("--allow-changed", key)
            ),
        ]
    )
    assert line.allowed == ("code", "data", "rewards.weights.acd", "learner.optimizer", "learner.groups_per_step")
    line = parse_command_line(["--name", "x"])
    assert (line.dry_run, line.resume, line.named) == (False, False, True)


def test_the_nearest_key_prefers_the_named_section():
    assert nearest("learner.clip", known_paths()) in ("algorithm.advantage.clip", "algorithm.clip")
    assert nearest("sampler.seed", known_paths()) == "seed"
    assert nearest("zzz", known_paths()) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "x", "shapes", "manifest"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([path.split(".")[-1] for path in known_paths()] + ["acd", "zzz"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted({path.split(".")[0] for path in known_paths()})), json_values))
def test_whatever_a_file_says_it_is_a_configuration_or_sentences(values):
    layers = Layers()
    try:
        layers.add(values, "file.yaml")
        assert isinstance(validated(layers), RunConfig)
    except ConfigError as error:
        assert error.faults and all("\n" not in fault for fault in error.faults)


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(known_paths()).map(lambda path: f"--{path}")
        | st.sampled_from(["--config", "--resume", "--dry-run", "--", "-x", "--data.type", "manifest"])
        | st.text(max_size=8),
        max_size=5,
    )
)
def test_whatever_is_typed_it_is_a_configuration_or_sentences(argv):
    try:
        assert isinstance(parse_command_line(argv).config, RunConfig)
    except ConfigError as error:
        assert error.faults


@settings(max_examples=300)
@given(st.text(alphabet="ab:{}[],-&*!|>#'\"\n \t%@`~?.0_1e\\", max_size=30) | st.text(max_size=15))
def test_whatever_text_a_file_holds_it_is_a_value_or_a_sentence(text):
    try:
        parse_yaml(text, "file.yaml")
    except ConfigError as error:
        assert str(error).startswith("file.yaml") and "\n" not in str(error)
