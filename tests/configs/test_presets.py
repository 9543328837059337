"""Every YAML in the repository is a configuration, and the presets differ only where they say so."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from configs.help import preset_summary, print_help
from configs.layers import PRESETS, preset_names
from configs.load import load_config
from configs.reward_regions import region_weights
from configs.schema import RunConfig
from configs.tree import sections

ROOT = Path(__file__).parents[2]


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[object, object]]:
    def flat(value, path=""):
        if isinstance(value, dict):
            return {key: leaf for name, below in value.items() for key, leaf in flat(below, f"{path}.{name}").items()}
        return {path[1:]: value}

    a, b = flat(one.model_dump()), flat(other.model_dump())
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if key != "name" and a.get(key) != b.get(key)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.y*ml")), ids=lambda path: path.name)
def test_every_yaml_loads_and_is_named_after_its_file(path):
    assert load_config(["--config", str(path)]).name == path.stem


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_begins_with_what_it_is_for(name):
    summary = preset_summary(PRESETS / f"{name}.yaml")
    assert summary.endswith(".") and 20 < len(summary) < 120


def test_the_comparison_rows_differ_in_one_thing_each():
    names = ("quickstart", "rc_grpo", "rdp", "global", "rdp_acd")
    quickstart, surrogate, rdp, glob, acd = (load_config(["--config", name]) for name in names)
    assert quickstart == RunConfig() == load_config(["--config", "locus", "--name", "quickstart"])
    changed = {key for key in differences(quickstart, surrogate) if not key.startswith("algorithm.")}
    assert changed == {"learner.optimizer.lr"}, "a method and its learning rate, nothing else"
    assert set(differences(surrogate, rdp)) == {"algorithm.preservation.background_weight"}
    assert rdp.algorithm.preservation.background_weight == 0
    assert set(differences(rdp, glob)) == {"algorithm.alpha_base"}
    assert glob.algorithm.alpha_base == glob.algorithm.alpha_edit
    assert set(differences(rdp, acd)) == {"rewards.weights.acd"}


def test_the_rows_of_region_methods_are_the_quickstart_with_their_own_method_and_rewards():
    quickstart = load_config(["--config", "quickstart"])
    edit, spatial, coco = (load_config(["--config", n]) for n in ("edit_grpo", "spatialflow_grpo", "cocoedit"))
    for other in (edit, spatial, coco):
        changed = set(differences(quickstart, other)) - {"learner.optimizer.lr"}  # the method's own
        assert {key.partition(".")[0] for key in changed} <= {"algorithm", "rewards"}
        preservation = other.algorithm.preservation
        assert preservation.background_weight == preservation.velocity_weight == preservation.undone_weight == 0
    assert edit.rewards == quickstart.rewards and edit.algorithm.by_region and spatial.algorithm.by_region
    assert {name: list(w) for name, w in region_weights(spatial.rewards).items()} == {
        "edit": ["editscore_success_truth"],
        "background": ["editscore_preservation_truth"],
    }
    assert coco.rewards.weights == {"edit_score": 0.9, "pixel_consistency": 0.1}
    # As in released code for FLUX.1-Kontext, but for what the positive branch is compared with.
    method = coco.algorithm
    assert (method.background_hinge, method.edit_hinge, method.use_reg_xsrc) == (0.02, 0.02, True)
    assert method.advantage.kind == "global_std" and method.positive_reference == "source"


def test_the_papers_recipe_has_its_rewards_and_no_preservation():
    paper = load_config(["--config", "rc_grpo_paper"])
    assert set(paper.rewards.weights) == {"editscore_truth", "acd"}
    control = load_config(["--config", "edit_only"])
    assert set(differences(paper, control)) == {"rewards.weights.editscore_truth", "rewards.weights.edit_score"}
    assert paper.rewards.normalisation == "minibatch" and paper.algorithm.advantage.kind == "std"
    assert paper.algorithm.preservation.background_weight == paper.algorithm.preservation.velocity_weight == 0
    assert (paper.algorithm.tau_edit, paper.algorithm.tau_base) == (0.9, 1.1)
    assert paper.algorithm.alpha_base < paper.algorithm.alpha_edit
    # What the paper does not publish stays comparable with the other rows.
    same = load_config(["--config", "rc_grpo"])
    assert paper.learner.optimizer == same.learner.optimizer and paper.sampler == same.sampler
    assert (paper.algorithm.alpha_edit, paper.algorithm.alpha_base) == (0.8, 0.05)


def test_kontext_trains_early_steps_and_never_the_last():
    kontext = load_config(["--config", "kontext_1gpu"])
    steps, trained = kontext.sampler.steps, kontext.algorithm.trained_steps
    assert max(trained) < 0.6 * steps < steps - 1
    assert kontext.editor.dtype == "bfloat16" and kontext.data.type == "manifest"


def test_kontext_with_judges_differs_in_its_rewards_and_holds_no_edit():
    alone, judged = load_config(["--config", "kontext_1gpu"]), load_config(["--config", "kontext_judged"])
    assert judged.rewards.judge.configured == ("editscore",) and judged.rewards.judge.editscore.serve.replicas == 2
    assert judged.rewards.weights["editscore"] == max(judged.rewards.weights.values())
    # What published runs leave out, in the judge's own unit; pooled, min_std would be in that of the step.
    assert judged.rewards.noise_floors["editscore"] == 0.02 and judged.rewards.min_std == 0
    # Nothing holds the edit where it is rewarded, and no reward is used where none is for the edit.
    assert set(differences(alone, judged)) - {k for k in differences(alone, judged) if k.startswith("rewards.")} == {
        "algorithm.weight",
        "algorithm.preservation.background_weight",
        "algorithm.preservation.background_error",
        "algorithm.preservation.velocity_weight",
        "algorithm.preservation.undone_weight",
    }
    assert alone.algorithm.preservation.velocity_weight > 0 == judged.algorithm.preservation.velocity_weight
    assert judged.algorithm.weight > 0 == alone.algorithm.weight
    elsewhere = load_config(
        [
            "--config",
            "kontext_judged",
            "--rewards.judge.editscore.serve.replicas",
            "0",
            "--rewards.judge.editscore.urls",
            "[http://host:8000/v1]",
        ]
    )
    assert elsewhere.rewards.judge.configured == ("editscore",)


def test_a_judge_takes_the_place_of_the_ground_truth_and_is_pooled_unless_told_otherwise():
    flags = ["--rewards.judge.qwen_vl.urls", "[http://host:8000/v1]"]
    judged = load_config(flags).rewards
    assert judged.weights == {"qwen_vl": 1.0, "background_psnr": 0.25} and judged.normalisation == "pooled"
    assert load_config([*flags, "--rewards.normalisation", "none"]).rewards.normalisation == "none"
    stated = load_config([*flags, "--rewards.weights", "{qwen_vl: 2}"]).rewards
    assert stated.weights == {"qwen_vl": 2.0} and stated.normalisation == "pooled"
    photos = ["--config", "my_images"]
    assert load_config([]).rewards.normalisation == load_config(photos).rewards.normalisation == "none"
    assert load_config([*photos, *flags, "--rewards.weights.qwen_vl", "1"]).rewards.normalisation == "pooled"


def test_help_shows_every_key_with_its_meaning():
    console = Console(width=300, file=io.StringIO(), highlight=False)
    print_help(console)
    text = console.file.getvalue()
    for section in sections():
        for key in section.keys:
            assert f"--{key.path}  {key.kind}" in text and key.doc.replace("None", "null") in text
    assert "--data.path  text  [required]" in text
    assert f"--learner.steps  whole number  [{RunConfig().learner.steps}]" in text
    for name in preset_names():
        assert f"  {name} " in text


def test_help_is_indented_at_every_width():
    console = Console(width=80, file=io.StringIO(), highlight=False)
    print_help(console)
    section = console.file.getvalue().partition("Configuration files\n")[2].partition("\n\n")[0]
    assert all(line.startswith("  ") for line in section.splitlines())


def test_every_key_has_a_docstring():
    missing = [key.path for section in sections() for key in section.keys if not key.doc]
    assert missing == []
