"""CLIP, SigLIP and DINO as scorers: polarity of the mask, ranges, what has no value, in a pool, a run and commands."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from configs.components import COMPONENT_KINDS, EMBEDDINGS
from configs.load import load_config
from configs.rewards import EmbeddingModelConfig, RewardsConfig
from editing.task import EditTask
from learner.main import main
from rewards import calibrate, score
from rewards.embedding.models import load_image_text, load_patches
from rewards.offline.command import NO_TASKS
from rewards.open import open_pool
from rewards.scorer_api import ScoreInput
from rewards.scorers.clip import NEUTRAL, ClipDirection, ClipText
from rewards.scorers.dino import DinoBackground
from tests.rewards.offline.edit_files import write_edits

SIZE = (48, 64)


def given_of(candidates: int = 4, **fields) -> ScoreInput:
    """Noise as source, other noise as candidates; the mask is a box that touches no border."""
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = np.zeros(SIZE, dtype=bool)
    mask[16:28, 20:32] = True
    task = EditTask("t", source, mask, "make the cat red", **{"caption": "a red cat with a hat", **fields})
    return ScoreInput(task, rng.integers(0, 256, (candidates, *SIZE, 3), dtype=np.uint8), None)


def scorer_of(name, tiny, kind):
    config = EmbeddingModelConfig(path=str(tiny(kind)), device="cpu")
    return {
        "clip_text": lambda: ClipText(load_image_text(config)),
        "clip_direction": lambda: ClipDirection(load_image_text(config)),
        "dino_background": lambda: DinoBackground(load_patches(config)),
    }[name]()


EVERY = [
    ("clip_text", "clip"),
    ("clip_text", "siglip"),
    ("clip_direction", "clip"),
    ("clip_direction", "siglip"),
    ("dino_background", "dinov2"),
    ("dino_background", "dinov3"),
]


def values(scores) -> np.ndarray:
    return np.array([one.value for one in scores])


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_values_lie_between_minus_one_and_one_and_tell_candidates_apart(name, kind, tiny):
    found = values(scorer_of(name, tiny, kind)(given_of()))
    assert (np.abs(found) <= 1).all() and np.ptp(found) > 1e-3


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_candidate_has_its_score_whatever_its_group(name, kind, tiny):
    given, scorer = given_of(), scorer_of(name, tiny, kind)
    alone = [values(scorer(replace(given, images=given.images[i : i + 1])))[0] for i in range(4)]
    assert values(scorer(given)) == pytest.approx(alone, abs=2e-5)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_the_mask_says_where_to_look(name, kind, tiny):
    """Edit scorers see the crop around the mask and nothing else; dino_background nothing inside the mask."""
    given, scorer = given_of(1), scorer_of(name, tiny, kind)
    before = values(scorer(given))
    inside, far = given.images.copy(), given.images.copy()
    inside[:, given.task.edit_mask] = 0
    far[:, 40:, :8] = 0
    moved = [abs(values(scorer(replace(given, images=images)))[0] - before[0]) for images in (inside, far)]
    if COMPONENT_KINDS[name] == "edit":
        assert moved[0] > 1e-3 and moved[1] == 0.0
    else:
        assert moved[0] == 0.0 and moved[1] > 1e-3


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_an_untouched_background_is_best_and_falls_with_every_further_change(kind, tiny):
    given, scorer = given_of(6), scorer_of("dino_background", tiny, kind)
    source, mask = given.task.source, given.task.edit_mask
    images = given.images.copy()
    for number, share in enumerate((0.0, 0.1, 0.2, 0.4, 0.8, 1.0)):
        mixed = np.round((1 - share) * source + share * 128.0).astype(np.uint8)
        images[number] = np.where(mask[:, :, None], given.images[number], mixed)
    found = values(scorer(replace(given, images=images)))
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(found) < 0).all()


def test_a_mask_over_the_whole_image_leaves_no_background(tiny):
    given = given_of(2)
    full = replace(given, task=replace(given.task, edit_mask=np.ones(SIZE, dtype=bool)))
    for one in scorer_of("dino_background", tiny, "dinov2")(full):
        assert one.value is None and one.reason == "lacking" and "mask over the whole image" in one.error
    for name in ("clip_text", "clip_direction"):
        assert np.isfinite(values(scorer_of(name, tiny, "clip")(full))).all()


@pytest.mark.parametrize("mask", [np.s_[0:1, 0:1], np.s_[47:48, 63:64], np.s_[:, 30:31], np.s_[20:21, :]])
def test_tiny_and_thin_masks_have_values(mask, tiny):
    given = given_of(2)
    edit = np.zeros(SIZE, dtype=bool)
    edit[mask] = True
    given = replace(given, task=replace(given.task, edit_mask=edit))
    for name, kind in EVERY:
        assert np.isfinite(values(scorer_of(name, tiny, kind)(given))).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_caption_is_preferred_to_the_instruction(kind, tiny):
    scorer = scorer_of("clip_text", tiny, kind)
    captioned, instructed = given_of(), given_of(caption=None)
    assert not np.allclose(values(scorer(captioned)), values(scorer(instructed)), atol=1e-4)
    same = given_of(caption=instructed.task.instruction)
    assert (values(scorer(same)) == values(scorer(instructed))).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_copy_of_the_source_has_moved_nowhere(kind, tiny):
    """And what has hardly moved has hardly a score: the value is continuous where the cosine alone would jump."""
    given, scorer = given_of(4), scorer_of("clip_direction", tiny, kind)
    images = np.repeat(given.task.source[None], 4, axis=0)
    images[1, 20, 24, 0] ^= 1
    images[3] = given.images[3]
    found = values(scorer(replace(given, images=images)))
    assert abs(found[0]) < 1e-4 and abs(found[2]) < 1e-4
    assert 0 < abs(found[1]) < 0.1 and abs(found[3]) > abs(found[1])


def test_a_change_towards_the_caption_is_positive_and_its_opposite_negative():
    class Flat:
        """Embeds an image by its first pixel's red, a text by whether it is the neutral one."""

        def images(self, images):
            angle = torch.tensor(images[:, 0, 0, 0] / 255 * np.pi / 2, dtype=torch.float32)
            return torch.stack([angle.cos(), angle.sin()], dim=1)

        def texts(self, texts):
            return torch.tensor([[1.0, 0.0] if text == NEUTRAL else [0.6, 0.8] for text in texts])

    given = given_of(3)
    images = np.zeros((3, *SIZE, 3), np.uint8)
    source = np.full((*SIZE, 3), 100, np.uint8)
    for image, red in zip(images, (200, 100, 0), strict=True):
        image[..., 0] = red
    towards, copy, away = values(
        ClipDirection(Flat())(replace(given, images=images, task=replace(given.task, source=source)))
    )
    assert towards > 0.8 and copy == 0.0 and away < -0.3


@pytest.mark.parametrize(("caption", "why"), [(None, "has no caption"), (NEUTRAL, "no more than 'a photo'")])
def test_a_direction_needs_a_caption(caption, why, tiny):
    for one in scorer_of("clip_direction", tiny, "clip")(given_of(2, caption=caption)):
        assert one.value is None and one.reason == "lacking" and why in one.error


def flags(tiny, **weights):
    words = ["--rewards.embedding.clip.path", str(tiny("clip")), "--rewards.embedding.dino.path", str(tiny("dinov2"))]
    return [*words, "--rewards.weights", json.dumps(weights)] if weights else words


def test_a_pool_scores_by_all_three_together(tiny):
    config = load_config(flags(tiny, clip_text=1, clip_direction=1, dino_background=1, background_psnr=0.1))
    given = given_of()

    async def scored():
        pool = open_pool(config, NO_TASKS)
        assert pool.waits  # in a thread, so that a service responds meanwhile
        try:
            return await pool.score_task(given.task, given.images)
        finally:
            await pool.close()

    found = asyncio.run(scored())
    assert set(found) == {*EMBEDDINGS, "background_psnr"}
    for name, kind in (("clip_text", "clip"), ("clip_direction", "clip"), ("dino_background", "dinov2")):
        assert values(found[name]) == pytest.approx(values(scorer_of(name, tiny, kind)(given)), abs=1e-6)


def test_without_a_judge_a_model_says_whether_the_edit_was_done(tiny):
    config = load_config(flags(tiny)).rewards
    assert config.normalisation == "pooled"
    assert config.weights == {"clip_text": 1.0, "background_psnr": 0.25, "dino_background": 0.25}
    judged = RewardsConfig.model_validate(
        {
            "judge": {"qwen_vl": {"urls": ["http://127.0.0.1:8000/v1"]}},
            "weights": {"qwen_vl": 1.0, "clip_text": 0.5},
            "embedding": {"clip": {"path": "x"}},
        }
    )
    assert judged.weights == {"qwen_vl": 1.0, "clip_text": 0.5}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"weights": {"clip_text": 1.0}}, r"clip_text has a weight, but rewards\.embedding\.clip\.path is empty"),
        ({"weights": {"dino_background": 1.0}}, r"rewards\.embedding\.dino\.path is empty"),
        (
            {"weights": {"acd": 1.0}, "embedding": {"clip": {"path": "x"}}},
            r"rewards\.embedding\.clip\.path is set, but rewards\.weights gives clip_text and clip_direction no weight",
        ),
        ({"scorers": {"clip_text": "a:b"}}, "is the name of a component of Locus"),
    ],
)
def test_weights_and_paths_belong_together(values, why):
    with pytest.raises(ValueError, match=why):
        RewardsConfig.model_validate(values)


def test_the_commands_measure_and_calibrate(tiny, tmp_path, capsys):
    write_edits(tmp_path, sources=2, candidates=3)
    edit = [
        "--source",
        str(tmp_path / "source_0.png"),
        "--edited",
        str(tmp_path / "edited_0_0.png"),
        "--mask",
        str(tmp_path / "mask.png"),
        "--instruction",
        "make the circle red",
    ]
    assert score.main([*edit, "--json", *flags(tiny)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"clip_text", "dino_background"} <= found["edited"][0]["scores"].keys()
    assert "clip_direction needs a caption, a description of the wanted image" in found["not_measured"]
    assert score.main([*edit, "--caption", "a red circle", "--json", *flags(tiny)]) == 0
    assert "clip_direction" in json.loads(capsys.readouterr().out)["edited"][0]["scores"]
    assert calibrate.main([str(tmp_path), "--json", *flags(tiny)]) == 0
    report = json.loads(capsys.readouterr().out)["components"]
    assert report["clip_text"]["edits"] == 6 and report["clip_text"]["between"] > 0
    assert report["dino_background"]["range"]["mean"] <= 1
    lines = (tmp_path / "manifest.jsonl").read_text().replace('"instruction"', '"caption": "a red cat", "instruction"')
    (tmp_path / "manifest.jsonl").write_text(lines)
    assert calibrate.main([str(tmp_path), "--json", *flags(tiny)]) == 0
    assert json.loads(capsys.readouterr().out)["components"]["clip_direction"]["edits"] == 6
    Image.new("RGB", (32, 24)).save(tmp_path / "black.png")
    assert (
        score.main(
            [
                *edit[:2],
                "--edited",
                str(tmp_path / "black.png"),
                *edit[4:],
                "--rewards.embedding.clip.path",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "rewards.embedding.clip.path: expected a folder with config.json" in capsys.readouterr().err


def test_a_run_is_rewarded_by_them(tiny, tmp_path, capsys):
    weights = {"clip_text": 1.0, "dino_background": 0.25}
    run = [
        "--folder",
        str(tmp_path),
        "--name",
        "embedded",
        *flags(tiny, **weights),
        "--cluster.mode",
        "inline",
        "--learner.steps",
        "1",
        "--learner.groups_per_step",
        "2",
        "--sampler.group_size",
        "3",
        "--algorithm.anchors",
        "1",
        "--report.gallery_tasks",
        "0",
        "--report.gallery_groups",
        "0",
        "--data.held_out_tasks",
        "1",
    ]
    assert main(run) == 0
    events = [json.loads(line) for line in (tmp_path / "embedded" / "events.jsonl").read_text().splitlines()]
    scored = [event for event in events if event["event"] == "scored"]
    assert len(scored) == 2 and all(event["valid"] == 3 for event in scored)
    capsys.readouterr()
    assert main([*run, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "clip, float32" in plan and "dino, float32" in plan and "working set of 32 images in clip" in plan
