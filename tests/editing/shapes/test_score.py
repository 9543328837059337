"""The scores of the embedded benchmark are won by the truth and by nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from editing.shapes.edits import OUTCOMES, THINGS, edit_at, edit_mask, outcomes
from editing.shapes.editscore import CELL, HALF, editscore_parts
from editing.shapes.scenes import PLACES, paint, to_uint8
from editing.shapes.score import TEMPERATURE, edit_verdict

indices = st.integers(0, 10**6)
AMOUNTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SLACK = 2e-3
"""Rounding to 8 bits may undo a little of a deviation between two amounts of it."""


def truth_of(edit):
    return to_uint8(paint(edit.target_scene)).astype(np.float64) / 255


def saturation(x, edit, amount):
    gray = x.mean(axis=-1, keepdims=True)
    return gray + (x - gray) * (1 + amount)


def faded(x, edit, amount):
    gray = x.mean(axis=-1, keepdims=True)
    return gray + (x - gray) * (1 - amount)


def contrast(x, edit, amount):
    mean = x[edit_mask(edit)].mean(axis=0)
    return mean + (x - mean) * (1 + amount)


def brightness(x, edit, amount):
    return x + 0.3 * amount


def darkness(x, edit, amount):
    return x * (1 - 0.7 * amount)


def cast(x, edit, amount):
    return x + 0.25 * amount * np.array([1.0, -0.5, 0.2])


def blur(x, edit, amount):
    image = Image.fromarray(to_uint8(x)).filter(ImageFilter.GaussianBlur(float(4 * amount)))
    return np.asarray(image, dtype=np.float64) / 255


def noise(x, edit, amount):
    return x + 0.3 * amount * np.random.default_rng(0).standard_normal(x.shape)


def shift(x, edit, amount):
    return np.roll(x, round(4 * amount), axis=1)


def partial(x, edit, amount):
    """Less and less of the edit: toward the untouched source."""
    return (1 - amount) * x + amount * to_uint8(paint(edit.scene)) / 255


def another(x, edit, amount):
    """Toward another outcome at the same place."""
    wrong = OUTCOMES[(OUTCOMES.index(edit.after) + 5) % len(OUTCOMES)]
    return (1 - amount) * x + amount * paint(edit.scene.with_thing(edit.place, wrong))


def elsewhere(x, edit, amount):
    """Toward the edit done at another place, and not at the one that was asked for."""
    place = next(p for p in PLACES if p != edit.place)
    thing = edit.after if edit.scene.thing_at(place) != edit.after else THINGS[0]
    return (1 - amount) * x + amount * paint(edit.scene.with_thing(place, thing))


DEVIATIONS = (saturation, faded, contrast, brightness, darkness, cast, blur, noise, shift, partial, another, elsewhere)


def deviated(edit, deviate, where=None):
    """uint8 [5, 64, 64, 3]: the truth, and more and more of a deviation (inside `where` only)."""
    truth = truth_of(edit)
    images = np.stack([to_uint8(deviate(truth, edit, amount)) for amount in AMOUNTS])
    if where is not None:
        images[:, ~where] = to_uint8(truth)[~where]
    return images


@pytest.mark.parametrize("deviate", DEVIATIONS, ids=lambda deviate: deviate.__name__)
@settings(max_examples=5, deadline=None)
@given(index=indices)
def test_the_edit_score_is_one_at_the_truth_and_falls_along_every_deviation_inside_the_mask(deviate, index):
    edit = edit_at("validation", 0, index)
    images = deviated(edit, deviate, edit_mask(edit))
    score = edit_verdict(images, edit).score
    assert score[0] == 1
    for image, lower, higher in zip(images[1:], score[1:], score, strict=False):
        if (image != images[0]).any():
            assert lower < 1
        assert lower <= higher + SLACK


@pytest.mark.parametrize("deviate", DEVIATIONS, ids=lambda deviate: deviate.__name__)
@pytest.mark.parametrize("part", ["inside", "outside", "everywhere"])
@settings(max_examples=3, deadline=None)
@given(index=indices)
def test_the_score_of_the_whole_edit_sees_every_deviation_inside_and_outside(deviate, part, index):
    edit = edit_at("validation", 0, index)
    mask = edit_mask(edit)
    images = deviated(edit, deviate, {"inside": mask, "outside": ~mask, "everywhere": None}[part])
    score = editscore_parts(images, edit).overall
    assert score[0] == 1
    for image, lower, higher in zip(images[1:], score[1:], score, strict=False):
        if (image != images[0]).any():
            assert lower < 1
        assert lower <= higher + SLACK


@settings(max_examples=20, deadline=None)
@given(indices, st.integers(0, 2**31), st.floats(0.001, 1))
def test_no_image_beats_the_truth(index, seed, strength):
    """Also along the direction that the plain softmax would win by: away from the other outcomes."""
    edit = edit_at("validation", 0, index)
    truth, rng = truth_of(edit), np.random.default_rng(seed)
    others = outcomes(edit)
    away = truth - others[rng.integers(len(others))] + 0.1 * rng.standard_normal(truth.shape)
    images = to_uint8(truth + strength * away)[None]
    for score in (edit_verdict(images, edit).score, editscore_parts(images, edit).overall):
        assert 0 < score[0] <= 1


def test_the_plain_softmax_is_won_by_overshoot():
    """The witness: what the cap at the distances of the truth is there for."""

    def softmax(images, edit):
        mask = edit_mask(edit)
        error = np.square(images[:, None, mask] / 255 - outcomes(edit)[None][:, :, mask]).mean(axis=(2, 3))
        weight = np.exp(-error / TEMPERATURE)
        return weight[:, OUTCOMES.index(edit.after)] / weight.sum(axis=1)

    beaten = 0
    for index in range(20):
        edit = edit_at("validation", 0, index)
        score = softmax(deviated(edit, saturation, edit_mask(edit)), edit)
        beaten += score[2] > score[0]
    assert beaten > 10


@settings(max_examples=6, deadline=None)
@given(indices)
def test_every_outcome_is_recognised(index):
    edit = edit_at("validation", 0, index)
    verdict = edit_verdict(to_uint8(outcomes(edit)), edit)
    asked = OUTCOMES.index(edit.after)
    assert verdict.correct.tolist() == [i == asked for i in range(len(OUTCOMES))]
    assert verdict.score[asked] == 1 and np.delete(verdict.score, asked).max() < 0.9


def random_image(edit, seed):
    rng = np.random.default_rng(seed)
    return np.clip(to_uint8(paint(edit.target_scene)).astype(int) + rng.integers(-40, 40, (64, 64, 3)), 0, 255)


def test_the_edit_score_equals_a_float64_brute_force():
    edit = edit_at("test", 0, 11)
    image, mask, asked = random_image(edit, 0), edit_mask(edit), OUTCOMES.index(edit.after)
    templates = to_uint8(outcomes(edit)).astype(int)

    def error(one, other):
        total, count = 0.0, 0
        for row, column in zip(*np.nonzero(mask), strict=True):
            for channel in range(3):
                total += ((int(one[row, column, channel]) - int(other[row, column, channel])) / 255) ** 2
                count += 1
        return total / count

    d = [error(image, template) for template in templates]
    apart = [error(templates[asked], template) for template in templates]
    rivals = [j for j in range(len(OUTCOMES)) if j != asked]
    above = 1 + sum(np.exp(-apart[j] / TEMPERATURE) for j in rivals)
    below = 1 + sum(np.exp((d[asked] - min(d[j], apart[j])) / TEMPERATURE) for j in rivals)
    assert edit_verdict(image.astype(np.uint8)[None], edit).score[0] == pytest.approx(above / below, rel=1e-9)


def test_the_parts_of_the_whole_score_equal_a_float64_brute_force():
    edit = edit_at("test", 0, 12)
    images = np.stack([random_image(edit, 1), to_uint8(paint(edit.scene)).astype(int)])
    mask, source = edit_mask(edit), to_uint8(paint(edit.scene)).astype(int)
    templates = to_uint8(outcomes(edit)).astype(int)
    got = editscore_parts(images.astype(np.uint8), edit)
    for at, image in enumerate(images):
        nearest = min(templates, key=lambda t: ((image - t)[mask] ** 2).sum())
        residual = (image - nearest) / 255
        smooth = np.zeros_like(residual)
        for row in range(0, 64, CELL):
            for column in range(0, 64, CELL):
                cell = (slice(row, row + CELL), slice(column, column + CELL))
                smooth[cell] = residual[cell].reshape(-1, 3).mean(axis=0)
        outside = (((image - source) / 255)[~mask] ** 2).mean()
        keep, natural, clean = (
            1 / (1 + value / HALF) for value in (outside, (smooth**2).mean(), ((residual - smooth) ** 2).mean())
        )
        success = edit_verdict(image.astype(np.uint8)[None], edit).score[0]
        assert got.minimal_over_editing[at] == pytest.approx(keep, rel=1e-9)
        assert got.naturalness[at] == pytest.approx(natural, rel=1e-9)
        assert got.artefacts[at] == pytest.approx(clean, rel=1e-9)
        assert got.overall[at] == pytest.approx(np.sqrt(min(success, keep) * min(natural, clean)), rel=1e-9)
    assert got.naturalness[1] == got.artefacts[1] == got.minimal_over_editing[1] == 1 > got.success[1]


def test_a_black_background_costs_the_whole_score_and_not_the_edit_score():
    edit = edit_at("validation", 0, 3)
    image = to_uint8(paint(edit.target_scene)).copy()
    image[~edit_mask(edit)] = 0
    assert edit_verdict(image[None], edit).score[0] == 1
    assert editscore_parts(image[None], edit).overall[0] < 0.15


def test_another_image_size_is_refused():
    with pytest.raises(ValueError, match=r"expected images of \(64, 64\)"):
        edit_verdict(np.zeros((1, 32, 32, 3), np.uint8), edit_at("test", 0, 1))
