"""The gallery: images against plain loops, and a page that needs nothing, runs nothing and leaks nothing."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PIL

from configs.load import load_config
from configs.rewards import RewardsConfig
from editing.data import open_tasks
from editing.task import EditTask, TaskError
from editing.trajectory import Lease, Shown
from learner.reporting.gallery import Gallery, GalleryGroup, GalleryReport, GalleryTask, write_gallery
from learner.reporting.gallery.images import (
    ACCENT,
    attention_overlay,
    change_map,
    data_uri,
    heat_colours,
    mask_overlay,
    outline,
    shrink,
)
from learner.reporting.gallery.observer import reward_facts
from learner.reporting.gallery.page import GalleryError, render
from learner.reporting.records import Counters, EvaluationRecord, GroupRecord, RunRecord, StepRecord
from rewards.result import GroupScores, Score

NASTY = """</style><script>alert("x")</script><img src=x onerror='y()'> & "quoted" 'single'"""


def decoded(uri: str) -> np.ndarray:
    head, _, text = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(PIL.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def task(instruction: str = "add a red circle", height: int = 6, width: int = 9, **more) -> EditTask:
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), dtype=bool)
    mask[1:4, 2:5] = True
    source = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return EditTask(task_id="t-1", source=source, edit_mask=mask, instruction=instruction, **more)


def group(given: EditTask, rewards=(0.1, None, 0.3)) -> GalleryGroup:
    images = np.stack([np.full_like(given.source, 40 * i) for i in range(len(rewards))])
    scores = tuple(Score(error=NASTY) if r is None else Score(value=r) for r in rewards)
    return GalleryGroup(given, 3, images, tuple(rewards), {"acd": scores})


def page(*tasks: GalleryTask, groups=(), title="run", facts=None) -> Gallery:
    return Gallery(title, facts or {}, {"edit_psnr": (18.0, 19.5)}, tuple(tasks), tuple(groups))


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_the_outline_is_what_touches_the_outside(mask):
    expected = np.zeros_like(mask)
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            expected[y, x] = mask[y, x] and any(
                0 <= a < height and 0 <= b < width and not mask[a, b] for a, b in beside
            )
    np.testing.assert_array_equal(outline(mask), expected)


def test_the_overlay_keeps_the_inside_and_grays_the_outside():
    given_task = task()
    shown = mask_overlay(given_task.source, given_task.edit_mask)
    inner = given_task.edit_mask & ~outline(given_task.edit_mask)
    np.testing.assert_array_equal(shown[inner], given_task.source[inner])
    outside = shown[~given_task.edit_mask]
    assert (outside[:, 0] == outside[:, 1]).all() and (outside[:, 1] == outside[:, 2]).all()
    assert (shown[outline(given_task.edit_mask)] == ACCENT).all()


def test_heat_rises_in_lightness_and_clips():
    ramp = heat_colours(np.linspace(-1, 2, 301)[None])[0].astype(float)
    lightness = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.5).all() and lightness[-1] - lightness[0] > 200
    np.testing.assert_array_equal(ramp[0], heat_colours(np.zeros((1, 1)))[0, 0])
    np.testing.assert_array_equal(ramp[-1], heat_colours(np.ones((1, 1)))[0, 0])


def test_the_change_map_is_dark_where_nothing_changed_and_bright_where_much_did():
    given_task = task(height=12, width=12)
    edited = given_task.source.copy()
    edited[9:, 9:] = 255 - edited[9:, 9:]
    edited[9, 9], given_task.source[9, 9] = 255, 0
    shown = change_map(edited, given_task.source, given_task.edit_mask)
    np.testing.assert_array_equal(shown[0, 0], heat_colours(np.zeros((1, 1)))[0, 0])
    np.testing.assert_array_equal(shown[9, 9], heat_colours(np.ones((1, 1)))[0, 0])


def test_attention_is_brightest_where_the_text_looks():
    image, mask = np.full((32, 48, 3), 100, np.uint8), np.zeros((32, 48), bool)
    attention = np.zeros((4, 6), np.float32)
    attention[1, 4] = 0.7
    shown = attention_overlay(image, attention, mask).astype(int).sum(axis=-1)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert 8 <= y < 16 and 32 <= x < 40
    # A map without any attention is drawn, not divided by zero.
    assert attention_overlay(image, np.zeros((4, 6), np.float32), mask).shape == image.shape


def test_shrinking_keeps_what_fits_and_the_proportions():
    small = np.zeros((64, 64, 3), np.uint8)
    assert shrink(small) is small
    assert shrink(np.zeros((1000, 500, 3), np.uint8)).shape == (384, 192, 3)
    assert shrink(np.zeros((2, 5000, 3), np.uint8)).shape == (1, 384, 3)


def test_a_data_uri_gives_the_image_back():
    source = task().source
    np.testing.assert_array_equal(decoded(data_uri(source)), source)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(text)
    return parser.tags


def test_every_text_is_escaped_and_nothing_can_run_or_be_fetched():
    nasty = task(NASTY, caption=NASTY)
    nasty = EditTask("id " + NASTY, nasty.source, nasty.edit_mask, NASTY, caption=NASTY)
    shown = GalleryTask(nasty, nasty.source, nasty.source, numbers={NASTY: (1.0, None)})
    text = render(Gallery(NASTY, {NASTY: NASTY}, {NASTY: (None, 1.0)}, (shown,), (group(nasty),)))
    found = tags(text)
    assert {tag for tag, _ in found} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "span",
        "b",
        "table",
        "tr",
        "th",
        "td",
        "article",
        "header",
        "div",
        "dl",
        "dt",
        "dd",
        "figure",
        "img",
        "figcaption",
        "svg",
        "rect",
        "footer",
    }
    for tag, attributes in found:
        assert not any(name.startswith("on") or name in ("style", "href", "srcset") for name in attributes), tag
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
    assert "<script" not in text and text.count("</style>") == 1
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert "http" not in outside.replace("http-equiv", "") and "url(" not in outside and "@import" not in outside


def test_the_policy_allows_the_own_style_and_data_images_only():
    text = render(page())
    (policy,) = [a["content"] for tag, a in tags(text) if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # The policy must stand before anything that it rules.
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_candidates_are_sorted_by_reward_and_those_without_come_last():
    text = render(page(groups=(group(task(), (0.1, None, 0.3, -2.0)),)))
    captions = re.findall(r"<figcaption><b>(\d\. [^<]*)</b>", text)
    assert captions == ["1. reward 0.30", "2. reward 0.10 · ref", "3. reward -2.00", "4. no reward"]
    shown = [decoded(a["src"] or "") for tag, a in tags(text) if tag == "img"][1:]
    assert [int(image[0, 0, 0]) for image in shown] == [80, 0, 120, 40]
    bars = [float(a["width"] or 0) for tag, a in tags(text) if tag == "rect" and a.get("class") == "value"]
    # Candidate 1 has no score: no bar. The others run from the group's worst to its best.
    assert bars == pytest.approx([100.0, round(100 * 2.1 / 2.3, 1), 0.0])


def test_given_images_have_no_reference_and_are_said_to_be_given():
    images, shown = np.zeros((2, *task().source.shape), np.uint8), task()
    for name, said in (("rank", "Images of the data"), ("edit_psnr", "start from one noise")):
        scores = {name: (Score(value=1.0), Score(value=0.0))}
        text = render(page(groups=(GalleryGroup(shown, 1, images, (1.0, 0.0), scores),)))
        assert said in text and (" · ref" in text) == (name != "rank")


def test_a_task_shows_its_images_in_order():
    given_task = task(target=task().source)
    heat = np.full((2, 3), 1 / 6, np.float32)
    shown = GalleryTask(
        given_task,
        given_task.source,
        given_task.source,
        heat,
        heat,
        {"edit_psnr": (18.0, 19.5), "edit_score": (0.5, 0.25)},
    )
    text = render(page(shown))
    assert re.findall(r'alt="([^"]*)"', text) == [
        "source",
        "edit region",
        "base",
        "trained",
        "target",
        "change, base",
        "change, trained",
        "attention, base",
        "attention, trained",
    ]
    assert '18.00 dB → 19.50 dB <span class="up">+1.50</span>' in text
    assert '0.500 → 0.250 <span class="down">-0.250</span>' in text


def test_the_page_is_written_whole_into_the_run_folder(tmp_path: Path):
    path = write_gallery(page(), tmp_path)
    assert path == tmp_path / "gallery" / "index.html"
    assert path.read_text(encoding="utf-8") == render(page())
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]


def test_a_link_out_of_the_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "gallery").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GalleryError, match="inside the run folder"):
        write_gallery(page(), tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_reward_that_is_no_weighted_sum_is_explained():
    assert reward_facts(RewardsConfig()) == {}
    gated = RewardsConfig(composition="gated", w2=0.5)
    assert reward_facts(gated) == {"reward": "E (0.6 + 0.5 C) / 1.1, E edit, C preservation"}


def test_the_observer_fills_the_page_from_a_run(tmp_path: Path):
    config = load_config(["--data.held-out-tasks", "2", "--rewards.normalisation", "pooled"])
    tasks = open_tasks(config)
    held_out = tasks.held_out
    report = GalleryReport(lambda config: tasks)
    report.on_start(RunRecord(config, "c" * 64, tmp_path, 0, 4096, 2))
    heat = np.full((8, 8), 1 / 64, np.float32)

    def measured(label: str, step: int, value: float) -> EvaluationRecord:
        shown = tuple(Shown(i, f"t{i}", np.full((64, 64, 3), 50 + step, np.uint8), heat) for i in range(2))
        return EvaluationRecord(label, step, 2, {"edit_psnr": value}, {}, 1.0, shown)

    def scored(slot: int, values: tuple[float, ...]) -> GroupScores:
        components = {name: tuple(Score(value=v) for v in values) for name in config.rewards.weights}
        return GroupScores(f"g{slot}", 0, components, 0.1)

    report.on_evaluation(measured("base", 0, 17.0))
    assert not (tmp_path / "gallery").exists()
    images = np.stack([held_out[0].source] * 2)
    for step in range(2):
        for slot in range(2):
            lease = Lease(step=step, slot=slot, task_index=5, attempt=0, seed=1, policy_version=step)
            report.on_group(
                GroupRecord(
                    step,
                    lease,
                    "t",
                    scored(slot, (1.0 + slot, 3.0)),
                    0,
                    1.0,
                    images if (step, slot) == (1, 0) else None,
                )
            )
        report.on_step(StepRecord(step + 1, 2, step, {}, {}, 0.0, {0: 2}, 60.0, Counters(), {"step": 1.0}, {}))
    report.on_evaluation(measured("final", 2, 19.0))
    report.on_end({})
    text = (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")
    assert held_out[0].instruction in text and held_out[1].instruction in text
    assert tasks.train[5].instruction in text and "step 2" in text and "step 1<" not in text
    assert '17.00 dB</td><td>19.00 dB</td><td><span class="up">+2.00' in text
    # Rewards use the spread of the whole step (groups (1, 3) and (2, 3): pooled std sqrt(.625)).
    weight = sum(config.rewards.weights.values())
    assert f"1. reward {weight / np.sqrt(0.625):.2f}" in text


def test_of_steps_that_are_done_again_the_later_groups_are_shown(tmp_path: Path):
    config = load_config(["--data.held-out-tasks", "1", "--rewards.normalisation", "none"])
    report = GalleryReport()

    def took(step: int, attempt: int) -> None:
        scores = GroupScores(
            f"{step}.{attempt}", 0, {name: (Score(value=1.0 + attempt),) * 2 for name in config.rewards.weights}, 0.1
        )
        lease = Lease(step=step, slot=0, task_index=step, attempt=attempt, seed=1, policy_version=step)
        report.on_group(GroupRecord(step, lease, "t", scores, 0, 1.0, np.zeros((2, 64, 64, 3), np.uint8)))

    report.on_start(RunRecord(config, "c" * 64, tmp_path, 0, 4096, 1))
    for step in range(3):
        took(step, attempt=0)
    report.on_start(RunRecord(config, "c" * 64, tmp_path, 1, 4096, 1))
    took(1, attempt=1)
    report.on_evaluation(EvaluationRecord("final", 2, 1, {"edit_psnr": 18.0}, {}, 1.0))
    text = (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"· step (\d)", text) == ["1", "2"]


@pytest.mark.parametrize("refused", [OSError(28, "No space left on device"), TaskError("t-1: its source is gone")])
def test_a_page_that_cannot_be_written_is_said_and_written_the_next_time(tmp_path: Path, monkeypatch, refused):
    config = load_config(["--data.held-out-tasks", "1"])
    report, pixels = GalleryReport(), np.zeros((64, 64, 3), np.uint8)
    report.on_start(RunRecord(config, "c" * 64, tmp_path, 0, 4096, 1))

    def measure(label: str) -> None:
        shown = Shown(0, "t0", pixels, np.full((8, 8), 1 / 64, np.float32))
        report.on_evaluation(EvaluationRecord(label, 1, 1, {"edit_psnr": 18.0}, {}, 1.0, (shown,)))

    def refuse(*arguments: object, **named: object) -> None:
        raise refused

    with monkeypatch.context() as broken, structlog.testing.capture_logs() as said:
        measured = "learner.reporting.gallery.observer.image_metrics"
        page = "learner.reporting.gallery.page.write_whole"
        broken.setattr(page if isinstance(refused, OSError) else measured, refuse)
        measure("training")
    assert [(line["event"], str(refused) in line["reason"]) for line in said] == [("gallery_not_written", True)]
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    measure("final")
    assert [path.name for path in (tmp_path / "gallery").iterdir()] == ["index.html"]
