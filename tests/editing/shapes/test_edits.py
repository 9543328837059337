"""The embedded benchmark's generator: exact masks, exact targets, disjoint splits."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from editing.shapes.dataset import ShapesDataset
from editing.shapes.edits import KINDS, SPLITS, edit_at, edit_mask, grown, split_of
from editing.shapes.scenes import COLOURS, paint, to_uint8

indices = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(indices, st.sampled_from(SPLITS))
def test_outside_the_mask_source_and_target_are_the_same_image(index, split):
    edit = edit_at(split, 0, index)
    source, target = to_uint8(paint(edit.scene)), to_uint8(paint(edit.target_scene))
    mask = edit_mask(edit)
    assert (source[~mask] == target[~mask]).all()
    assert (source[mask] != target[mask]).any()
    assert 0.05 < mask.mean() < 0.25


@settings(max_examples=40, deadline=None)
@given(indices)
@example(1478)  # at the border, as one of some 2,400 is
def test_the_mask_holds_what_changes_and_a_pixel_around(index):
    edit = edit_at("train", 3, index)
    mask = edit_mask(edit)
    touched = (to_uint8(paint(edit.scene)) != to_uint8(paint(edit.target_scene))).any(axis=-1)
    rows, columns = np.nonzero(touched)
    height, width = mask.shape
    for row, column in zip(rows, columns, strict=True):  # brute-force dilation by one (4-neighbourhood)
        for y, x in ((row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            assert not (0 <= y < height and 0 <= x < width) or mask[y, x]


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


@settings(max_examples=20, deadline=None)
@given(indices, st.integers(0, 9))
def test_a_margin_grows_the_mask_by_steps_of_one_pixel(index, margin):
    """Against the distance to the nearest pixel of the exact mask, in steps up, down, left and right."""
    exact = edit_mask(edit_at("train", 0, index))
    rows, columns = np.nonzero(exact)
    y, x = np.mgrid[0 : exact.shape[0], 0 : exact.shape[1]]
    distance = (np.abs(y[..., None] - rows) + np.abs(x[..., None] - columns)).min(axis=-1)
    assert (grown(exact, margin) == (distance <= margin)).all()


def test_only_the_mask_depends_on_the_margin():
    exact, loose = ShapesDataset("train", 5, 7), ShapesDataset("train", 5, 7, mask_margin=6)
    assert exact.fingerprint != loose.fingerprint
    for one, other in zip(exact, loose, strict=True):
        assert (other.edit_mask == grown(one.edit_mask, 6)).all() and other.edit_mask.sum() > one.edit_mask.sum()
        assert (one.source == other.source).all() and (one.target == other.target).all()
        assert one.meta == other.meta and one.instruction == other.instruction
    assert (ShapesDataset("train", 1, 7, mask_margin=32)[0].edit_mask).mean() > 0.7
