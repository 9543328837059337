import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.masks import loses_a_part
from editing.resize import Fit, fitted_size, part_is_lost, resize_image, resize_mask, resize_task
from editing.task import EditTask, TaskError


def make_task(height=30, width=50, **changes):
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), dtype=bool)
    mask[: height // 2, : width // 2] = True
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    given = {"task_id": "t", "source": image, "edit_mask": mask, "instruction": "x", **changes}
    return EditTask(**given)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200), st.sampled_from([1, 8, 16, 28]))
def test_the_size_is_snapped_near_the_wanted_area_and_aspect(height, width, side, multiple):
    new = fitted_size(height, width, side, multiple)
    scale = side / np.sqrt(height * width)
    for length, original in zip(new, (height, width), strict=True):
        assert length % multiple == 0 and length >= multiple
        assert abs(length - original * scale) <= multiple / 2 + 1e-6 or length == multiple


def test_without_a_side_only_the_snapping_is_left():
    assert fitted_size(64, 96, None, 16) == (64, 96)
    assert fitted_size(65, 90, None, 16) == (64, 96)
    assert fitted_size(3, 500, None, 16) == (16, 496)
    assert fitted_size(300, 600, 512, 16) == (368, 720)


def test_a_fitting_task_is_returned_as_it_is():
    task = make_task(32, 48)
    assert resize_task(task, None, 16) is task


def test_all_parts_get_the_new_size_and_the_rest_stays():
    task = make_task(
        target=np.zeros((30, 50, 3), np.uint8),
        caption="c",
        regions={"empty": np.zeros((30, 50), bool), "all": np.ones((30, 50), bool)},
        meta={"k": 1},
    )
    new = resize_task(task, 64, 16)
    size = (48, 80)
    assert new.source.shape == new.target.shape == (*size, 3) and new.edit_mask.shape == size
    assert (new.task_id, new.instruction, new.caption, new.meta) == ("t", "x", "c", {"k": 1})
    assert not new.regions["empty"].any() and new.regions["all"].all()
    assert new.edit_mask.mean() == pytest.approx(task.edit_mask.mean(), abs=0.02)
    assert new.edit_mask[:24, :40].all() and not new.edit_mask[25:].any()


def test_one_pixel_survives_any_shrinking():
    mask = np.zeros((100, 100), dtype=bool)
    mask[77, 31] = True
    assert np.argwhere(resize_mask(mask, (10, 10))).tolist() == [[7, 3]]
    assert resize_task(make_task(100, 100, edit_mask=mask), 16, 8).edit_mask.sum() == 1


def test_one_background_pixel_survives_any_resizing():
    frame = np.zeros((512, 512), dtype=bool)
    frame[1:-1, 1:-1] = True
    small = resize_mask(frame, (64, 64))
    assert np.argwhere(~small).tolist() == [[0, 0]]  # a corner is covered least
    hole = np.ones((100, 100), dtype=bool)
    hole[77, 31] = False
    assert np.argwhere(~resize_mask(hole, (10, 10))).tolist() == [[7, 3]]
    assert not resize_task(make_task(512, 512, edit_mask=frame), 64, 16).edit_mask.all()
    assert resize_mask(np.ones((100, 100), dtype=bool), (10, 10)).all()  # a full mask stays full
    assert resize_mask(hole, (1, 1)).all()  # there is room for one of the two only


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 2))
def test_neither_region_vanishes(seed, size, other):
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < rng.choice([0.0, 0.01, 0.5, 0.99, 1.0])
    resized = resize_mask(mask, other)
    assert resized.any() == mask.any()
    if resized.size > 1:
        assert resized.all() == mask.all()


def test_doubling_repeats_a_mask_and_a_flat_image_stays_flat():
    mask = np.random.default_rng(1).random((5, 7)) < 0.5
    assert np.array_equal(resize_mask(mask, (10, 14)), mask.repeat(2, 0).repeat(2, 1))
    flat = np.full((9, 12, 3), (10, 200, 77), np.uint8)
    assert (resize_image(flat, (5, 31)) == (10, 200, 77)).all()


def test_shrinking_averages_instead_of_picking():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    middle = resize_image(stripes, (16, 16))[4:-4, 4:-4]
    assert np.abs(middle.astype(int) - 127.5).max() < 3


@pytest.mark.parametrize(("side", "multiple"), [(0, 16), (64, 0)])
def test_senseless_sizes_are_refused(side, multiple):
    with pytest.raises(TaskError, match="at least 1"):
        resize_task(make_task(), side, multiple)


@pytest.mark.parametrize(
    ("width", "gap", "half", "lost"),
    [
        (1, 40, False, True),
        (3, 40, False, True),
        (4, 40, False, False),
        (8, 40, False, False),
        (8, 40, True, True),
        (24, 40, True, False),
        (64, 40, True, False),
        (1, 0, False, False),
    ],
)
def test_a_mask_that_loses_a_connected_part_says_so(width, gap, half, lost):
    """A bar beside a large square, edited at an eighth of its size in tokens of 4 x 4."""
    mask = np.zeros((512, 512), dtype=bool)
    mask[64:256, 64:256] = True
    mask[64:448, 256 + gap : 256 + gap + width] = True
    fit = Fit(64, 4, half)
    assert part_is_lost(mask, fit) == lost
    assert not part_is_lost(mask, Fit(512, 4)) and not part_is_lost(mask[:, 64:256], fit)
    left = resize_mask(mask, (64, 64))[:, (256 + gap) // 8 :].any()
    assert half or gap == 0 or left != lost


def test_a_part_that_winds_is_one_part():
    mask = np.zeros((9, 9), dtype=bool)
    mask[::2] = True  # a snake
    mask[1, 8] = mask[3, 0] = mask[5, 8] = mask[7, 0] = True
    chosen = np.zeros_like(mask)
    chosen[8, 8] = True
    assert not loses_a_part(mask.astype(float), chosen)
    mask[5, 8] = False
    assert loses_a_part(mask.astype(float), chosen)
