"""Runs on a user's targets and ranked edits, from the manifest to the adapter."""

import json

import numpy as np
import pytest
from PIL import Image

from configs.run_files import EVENTS
from editing.manifest import ManifestError
from learner.audit import audited
from learner.backends.inline import InlineBackend
from learner.run import run
from learner.state.event_log import read_events
from tests.documents import page
from tests.learner.adapters import same_adapter
from tests.learner.rig import GIVEN, Rig, tiny_config, weights_of
from tests.learner.tiny_run import tiny_run

RANK = {"weights": {"rank": 1.0}}


def write_images(folder, count=8):
    """A manifest whose lines have a target and three ranked edits, and some of two."""
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 40), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    lines = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}]
    for index in range(count):
        names = [f"{index}_{part}.png" for part in ("source", "a", "b", "c")]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / name)
        line = {"id": f"{index}", "source": names[0], "mask": "mask.png", "instruction": "make it red"}
        lines.append({**line, "target": names[1], "ranked": names[1 : 3 + index % 2]})
    return write_lines(folder, lines)


def write_lines(folder, lines):
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def configured(editor, folder, kind, name="r", **over):
    data = {"type": "manifest", "path": str(folder / "m.jsonl"), "resolution": 32}
    return tiny_run(editor, folder, name, {"algorithm": {"type": kind}, "rewards": RANK, "data": data, **over})


@pytest.mark.parametrize("kind", GIVEN)
def test_a_manifest_is_trained_on_in_one_process(kind, tiny_kontext, tmp_path):
    write_images(tmp_path)
    summary = run(configured(tiny_kontext, tmp_path, kind))
    assert summary["steps"] == 4 and summary["verdict"]["outcome"] == "trained"
    assert not any(audited(tmp_path / "r" / EVENTS).faults.values())
    events = list(read_events(tmp_path / "r" / EVENTS))
    assert not [event for event in events if event["event"] in ("rejected", "requeued")]
    assert all(e["valid"] == {"sft": 1, "dpo": 2}[kind] for e in events if e["event"] == "scored")


@pytest.mark.parametrize("kind", GIVEN)
def test_groups_of_the_spool_are_trained_on_after_a_crash_as_before(kind, tiny_kontext, tmp_path, monkeypatch):
    """The adapters are the same, of the run that was cut short in a step and of the one that was not."""
    write_images(tmp_path)

    class Crash(Exception):
        pass

    whole = run(configured(tiny_kontext, tmp_path, kind, "whole"))
    update, done = InlineBackend.update, []

    def crashing(self, meanwhile):
        if len(done) == 3:
            raise Crash
        done.append(1)
        return update(self, meanwhile)

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(InlineBackend, "update", crashing)
        run(configured(tiny_kontext, tmp_path, kind, "cut"))
    spooled = list((tmp_path / "cut" / "spool").glob("*.safetensors"))
    assert len(spooled) == 4, "two groups each of the third step, which no checkpoint has, and of the fourth"
    resumed = run(configured(tiny_kontext, tmp_path, kind, "cut"), resume=True)
    assert sum(event["event"] == "replayed" for event in read_events(tmp_path / "cut" / EVENTS)) == 4
    assert resumed["final"] == whole["final"]
    assert same_adapter(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("kind", GIVEN)
def test_a_line_without_its_images_is_refused_at_the_start(kind, tiny_kontext, tmp_path):
    path = write_images(tmp_path)
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    key = {"sft": "target", "dpo": "ranked"}[kind]
    del lines[1][key], lines[4][key]
    write_lines(tmp_path, [header, *lines])
    words = rf'algorithm.type: {kind} needs .* in every training line, but 2 of 7 .* first is line 3\); write "{key}": '
    with pytest.raises(ManifestError, match=words):
        run(configured(tiny_kontext, tmp_path, kind))
    del lines[7][key]  # held out: it is not trained on
    lines[1][key] = lines[0][key]
    lines[4][key] = lines[0][key]
    write_lines(tmp_path, [header, *lines])
    assert run(configured(tiny_kontext, tmp_path, kind))["steps"] == 4


@pytest.mark.parametrize("kind", GIVEN)
def test_preservation_composes_with_it(kind, tiny_kontext, tmp_path):
    method = {"type": kind, "preservation": {"background_weight": 0.2, "velocity_weight": 0.1}}
    rig = Rig(tiny_config(tiny_kontext, algorithm=method), tmp_path, balance=None)
    before = weights_of(rig.learner)
    metrics = [rig.step(step).metrics for step in range(2)][-1]
    assert {"surrogate", "background", "velocity_anchor"} <= metrics.keys() and metrics["preservation_unit"] > 0
    assert weights_of(rig.learner) != before


def test_a_pair_is_not_torn_by_a_micro_batch(tiny_kontext, tmp_path):
    """The gradient of the step is that of whole batches but for rounding."""
    norms = []
    for size in (None, 3, 2):
        over = {"algorithm": {"type": "dpo", "samples": 3}, "editor": {"micro_batch": size}}
        rig = Rig(tiny_config(tiny_kontext, **over), tmp_path / str(size))
        norms.append(rig.step(0).metrics["gradient_norm"])
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4) and norms[0] > 0


def test_a_run_starts_from_a_warm_start_as_the_guide_says(tiny_kontext, tmp_path):
    """From targets to rewards: the second run begins with what the first has learnt, and counts gains from the base."""
    assert "--editor.lora.start runs/warm/adapter" in page("docs/training.md")
    write_images(tmp_path)
    warmed = run(configured(tiny_kontext, tmp_path, "sft", "warm"))
    editor = {"path": str(tiny_kontext), "lora": {"start": str(tmp_path / "warm" / "adapter")}}
    data = {"type": "manifest", "path": str(tmp_path / "m.jsonl"), "resolution": 32}
    rewards = {"weights": {"edit_psnr": 1.0}}
    further = run(tiny_run(tiny_kontext, tmp_path, "further", {"editor": editor, "data": data, "rewards": rewards}))
    published = {
        name: [one["fingerprint"] for one in read_events(tmp_path / name / EVENTS) if one["event"] == "published"]
        for name in ("warm", "further")
    }
    assert published["further"][0] == published["warm"][-1] != published["further"][-1]
    assert further["base"] == warmed["base"]


def test_more_than_one_update_on_the_same_images(tiny_kontext, tmp_path):
    for kind in GIVEN:
        rig = Rig(tiny_config(tiny_kontext, algorithm={"type": kind}, learner={"updates_per_step": 2}), tmp_path / kind)
        assert rig.step(0).metrics["ratio_deviation"] == 0
