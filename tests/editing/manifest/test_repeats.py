from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.manifest.dataset import CheckedRecord
from editing.manifest.lines import Record
from editing.manifest.repeats import image_groups, repeated, shared, split


def item(line, image, instruction="x", mask="m"):
    record = Record(line, f"line-{line}", Path("a"), Path("m"), None, "edit_is_white", False, instruction, None, None)
    return CheckedRecord(record, {"source": f"{line}", "mask": f"{line}"}, 8, 8, 0.5, image, mask)


def items(images):
    return [item(line, image) for line, image in enumerate(images)]


def test_the_last_tasks_are_held_out_where_every_image_stands_once():
    assert split(items("abcdefghij"), 2) == (list(range(8)), [8, 9])
    assert split(items("abc"), 0) == ([0, 1, 2], [])


@pytest.mark.parametrize(
    ("images", "held_out", "chosen"),
    [
        ("aaabbbcccddd", 1, [9, 10, 11]),  # an image has more tasks than were asked for
        ("abcabcabcabc", 4, [2, 5, 8, 11]),
        ("abcdefghijab", 2, [8, 9]),  # a and b are trained on, wherever they stand
        ("aaaaab", 1, [5]),
        ("baaaaa", 1, [0]),
    ],
)
def test_tasks_of_an_image_stay_on_one_side(images, held_out, chosen):
    train, held = split(items(images), held_out)
    assert held == chosen
    assert not {images[i] for i in train} & {images[i] for i in held}


@pytest.mark.parametrize("images", ["aaaaaaaaaaaa"])
def test_one_image_cannot_be_on_one_side(images):
    assert split(items(images), 2) == (list(range(10)), [10, 11])


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=30), st.data())
def test_every_task_is_on_exactly_one_side_and_neither_is_empty(images, data):
    held_out = data.draw(st.integers(1, len(images) - 1))
    train, held = split(items(images), held_out)
    assert sorted(train + held) == list(range(len(images))) and train and held
    if len(set(images)) > 1 and len(held) != held_out:
        assert not {images[i] for i in train} & {images[i] for i in held}


def test_repeats_and_shared_images_are_counted():
    tasks = [item(2, "a"), item(3, "a", "y"), item(4, "a"), item(5, "a", mask="n"), item(6, "b")]
    assert image_groups(tasks) == [[0, 1, 2, 3], [4]]
    assert repeated(tasks) == [2]
    assert shared(tasks, [item(2, "c"), item(3, "b"), item(4, "a")]) == 2
