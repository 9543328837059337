"""Which images a method is given of a task."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from editing.given import Given
from editing.shapes.dataset import ShapesDataset
from editing.shapes.edits import OUTCOMES, draw_edit, outcomes, wrong_scene
from editing.task import EditTask, TaskError


def a_task(edits: int = 4) -> EditTask:
    """A half that may change; ranked edits in shades that tell their places."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :4] = True

    def shade(value: int) -> np.ndarray:
        return np.full((8, 8, 3), value, dtype=np.uint8)

    return EditTask("t", shade(200), mask, "darker", target=shade(100), ranked=tuple(map(shade, range(edits))))


def test_a_target_is_given_as_it_is_or_with_the_sources_background():
    task = a_task()
    (as_it_is,) = Given("target", "given").images(task, 0)
    assert as_it_is.dtype == np.uint8 and (as_it_is == 100).all()
    (composite,) = Given("target", "source").images(task, 0)
    assert (composite[:, :4] == 100).all() and (composite[:, 4:] == 200).all()


def test_every_pair_of_a_ranking_comes_up_alike_and_the_better_image_is_first():
    task, given = a_task(), Given("pair", "given")
    pairs = [tuple(int(image[0, 0, 0]) for image in given.images(task, seed)) for seed in range(3000)]
    counts = Counter(pairs)
    assert set(counts) == {(a, b) for a in range(4) for b in range(a + 1, 4)}
    assert max(abs(count - 500) for count in counts.values()) < 100  # 500 ± 20 (one sigma) expected
    assert np.array_equal(given.images(task, 5), given.images(task, 5))


def test_the_only_pair_of_two_is_always_given():
    task = a_task(2)
    for seed in range(5):
        better, worse = Given("pair", "source").images(task, seed)
        assert (better[:, :4] == 0).all() and (worse[:, :4] == 1).all()
        assert (better[:, 4:] == 200).all() and (worse[:, 4:] == 200).all()


def test_a_task_without_the_images_is_told():
    task = replace(a_task(), target=None, ranked=())
    for what, words in (("target", "a target"), ("pair", "ranked edits")):
        with pytest.raises(TaskError, match=f"task t: expected {words}, got none"):
            Given(what, "given").images(task, 0)


def test_the_benchmark_ranks_its_target_before_a_wrong_edit():
    plain, ranked = ShapesDataset("train", 20, 0), ShapesDataset("train", 20, 0, ranked=True)
    assert plain.fingerprint != ranked.fingerprint and plain[0].ranked == ()
    for index in range(20):
        task = ranked[index]
        assert np.array_equal(task.source, plain[index].source) and np.array_equal(task.ranked[0], task.target)
        assert len(task.ranked) == 2 and not np.array_equal(task.ranked[1], task.target)


def test_a_wrong_edit_is_any_other_outcome_of_the_same_scene():
    rng = np.random.default_rng(0)
    found = Counter()
    for _ in range(400):
        edit = draw_edit(rng)
        wrong = wrong_scene(edit)
        assert wrong == wrong_scene(edit)
        after = wrong.thing_at(edit.place)
        assert after != edit.after and wrong.with_thing(edit.place, edit.before) == edit.scene.with_thing(
            edit.place, edit.before
        )
        found[after] += 1
    assert set(found) == set(OUTCOMES) and len(outcomes(edit)) == 13
