"""The embedded benchmark's generator: exact masks, exact targets, disjoint splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.shapes.dataset import ShapesDataset
from editing.shapes.edits import KINDS, OUTCOMES, SPLITS, edit_at, edit_mask, outcomes, split_of
from editing.shapes.scenes import COLOURS, paint, to_uint8
from editing.shapes.score import edit_verdict

indices = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(indices, st.sampled_from(SPLITS))
def test_outside_the_mask_source_and_target_are_the_same_picture(index, split):
    edit = edit_at(split, 0, index)
    source, target = to_uint8(paint(edit.scene)), to_uint8(paint(edit.target_scene))
    mask = edit_mask(edit)
    assert (source[~mask] == target[~mask]).all()
    assert (source[mask] != target[mask]).any()
    assert 0.05 < mask.mean() < 0.25


@settings(max_examples=40, deadline=None)
@given(indices)
def test_mask_stays_off_the_border_and_is_tight(index):
    edit = edit_at("train", 3, index)
    mask = edit_mask(edit)
    assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    touched = (to_uint8(paint(edit.scene)) != to_uint8(paint(edit.target_scene))).any(axis=-1)
    rows, columns = np.nonzero(touched)
    around = np.zeros_like(mask)
    for row, column in zip(rows, columns, strict=True):  # brute-force dilation by one (4-neighbourhood)
        around[row, column] = around[row - 1, column] = around[row + 1, column] = True
        around[row, column - 1] = around[row, column + 1] = True
    assert (mask | around == mask).all()


def test_splits_are_disjoint_in_layout_and_all_kinds_occur():
    layouts = {}
    for split in SPLITS:
        edits = [edit_at(split, seed, i) for seed in (0, 1) for i in range(300)]
        assert {e.kind for e in edits} == set(KINDS)
        assert all(split_of(e) == split for e in edits)
        layouts[split] = {(e.kind, e.place, e.after, e.scene.things) for e in edits}
    assert not layouts["train"] & layouts["validation"]
    assert not layouts["train"] & layouts["test"]
    assert not layouts["validation"] & layouts["test"]


def test_a_task_depends_on_split_seed_and_index_only():
    short, long = ShapesDataset("train", 5, 7), ShapesDataset("train", 50, 7)
    for i in range(5):
        assert (short[i].source == long[i].source).all() and short[i].instruction == long[i].instruction
    assert (ShapesDataset("train", 5, 8)[0].source != short[0].source).any()
    assert short.fingerprint != long.fingerprint
    with pytest.raises(IndexError):
        short[5]


@settings(max_examples=25, deadline=None)
@given(indices)
def test_instruction_names_what_is_there(index):
    edit = edit_at("train", 1, index)
    words = edit.instruction.split()
    assert words[0] == edit.kind and len(words) <= 11
    if edit.kind == "add":
        assert edit.before is None and edit.place in edit.instruction and edit.after.name in edit.instruction
    else:
        by_name, by_place = edit.before.name in edit.instruction, edit.place in edit.instruction
        assert by_name or by_place
        assert sum(thing.name == edit.before.name for _, thing in edit.scene.things) == 1
    if edit.kind == "recolour":
        assert words[-1] == edit.after.colour in COLOURS and edit.after.shape == edit.before.shape
    if edit.kind == "remove":
        assert edit.after is None


@settings(max_examples=15, deadline=None)
@given(indices)
def test_every_outcome_is_recognised_and_scores_sum_to_one(index):
    edit = edit_at("validation", 0, index)
    pictures = to_uint8(outcomes(edit))
    verdict = edit_verdict(pictures, edit)
    asked = OUTCOMES.index(edit.after)
    assert verdict.correct.tolist() == [i == asked for i in range(len(OUTCOMES))]
    assert verdict.score[asked] == verdict.score.max()


def test_edit_score_equals_a_float64_brute_force():
    edit = edit_at("test", 0, 11)
    rng = np.random.default_rng(0)
    image = np.clip(to_uint8(paint(edit.target_scene)).astype(int) + rng.integers(-40, 40, (64, 64, 3)), 0, 255)
    mask = edit_mask(edit)
    errors = []
    for template in outcomes(edit):
        total, count = 0.0, 0
        for row in range(64):
            for column in range(64):
                if mask[row, column]:
                    for channel in range(3):
                        total += (image[row, column, channel] / 255 - float(template[row, column, channel])) ** 2
                        count += 1
        errors.append(total / count)
    weights = np.exp(-np.array(errors) / 0.01)
    expected = weights[OUTCOMES.index(edit.after)] / weights.sum()
    assert edit_verdict(image.astype(np.uint8)[None], edit).score[0] == pytest.approx(expected, rel=1e-9)
