"""Measures that no reward uses: equal images have none of them, and each sees what it is for."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage.color import deltaE_cie76, rgb2lab

from rewards.appearance import SIGNED, UNSIGNED, appearance
from rewards.colour import delta_e, lab
from rewards.pyramid import pyramid_distance


def scene(height=48, width=61, seed=0):
    """A smooth image with some texture, away from black and white, uint8."""
    coarse = np.random.default_rng(seed).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (image + np.random.default_rng(seed + 1).integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)


def region(height=48, width=61):
    inside = np.zeros((height, width), dtype=bool)
    inside[5:31, 7:40] = True
    inside[20:44, 30:55] = True
    return inside


def changed(image, how, amount):
    x = image.astype(np.float64)
    gray = x.mean(axis=-1, keepdims=True)
    if how == "saturation":
        x = gray + (x - gray) * (1 + amount)
    elif how == "brightness":
        x = x + 40 * amount
    elif how == "contrast":
        x = x.mean(axis=(0, 1)) + (x - x.mean(axis=(0, 1))) * (1 + amount)
    elif how == "sharpness":  # less of it: a blur
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3 * amount)))
    elif how == "cast":
        x = x + 40 * amount * np.array([1, -0.5, -0.5])
    elif how == "noise":
        x = x + 30 * amount * np.random.default_rng(5).standard_normal(x.shape)
    elif how == "shift":
        return np.roll(image, round(6 * amount), axis=1)
    return np.rint(x).clip(0, 255).astype(np.uint8)


def test_lab_and_delta_e_are_those_of_scikit_image():
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_allclose(lab(colours), rgb2lab(colours), atol=1e-3)
    other, inside = scene(40, 50), region(40, 50)
    expected = deltaE_cie76(rgb2lab(colours), rgb2lab(other))[inside].mean()
    assert delta_e(colours, other, inside) == pytest.approx(expected, abs=1e-3)


def test_equal_regions_differ_in_nothing_whatever_lies_outside():
    image, inside = scene(), region()
    other = scene(seed=9)
    other[inside] = image[inside]
    assert all(value[0] == 0 for value in appearance(other[None], image, inside).values())
    assert delta_e(other, image, inside) == pyramid_distance(other, image, inside) == 0


@pytest.mark.parametrize("how", ["saturation", "brightness", "contrast", "sharpness"])
def test_a_signed_drift_follows_its_cause_in_size_and_direction(how):
    image, inside = scene(), region()
    more = np.stack([changed(image, how, amount) for amount in (0.0, 0.3, 0.6, 0.9)])
    drift = appearance(more, image, inside)[how]
    direction = -1 if how == "sharpness" else 1
    assert drift[0] == 0 and (np.diff(direction * drift) > 0).all()
    if how != "sharpness":
        assert appearance(changed(image, how, -0.5)[None], image, inside)[how][0] < 0


def test_a_constant_cast_is_told_from_other_errors():
    image, inside = scene(), region()
    casts = np.stack([changed(image, "cast", amount) for amount in (0.2, 0.5, 0.8)])
    found = appearance(casts, image, inside)
    assert (np.diff(found["cast"]) > 0).all() and (found["cast_share"] > 0.99).all()
    assert found["cast"][1] == pytest.approx(np.linalg.norm([20, -10, -10]) / 255, rel=1e-3)
    noisy = appearance(changed(image, "noise", 1.0)[None], image, inside)
    assert noisy["cast_share"][0] < 0.05 and noisy["cast"][0] < 0.02
    gray = appearance(changed(image, "brightness", 1.0)[None], image, inside)
    assert gray["cast"][0] < 1e-3 and gray["cast_share"][0] > 0.99


def test_appearance_equals_plain_loops_in_float64():
    image, other, inside = scene(9, 11), scene(9, 11, seed=4), np.zeros((9, 11), dtype=bool)
    inside[2:6, 1:5] = inside[5:8, 4:9] = True
    luma = [0.299, 0.587, 0.114]

    def look(x):
        places = list(zip(*np.nonzero(inside), strict=True))
        y = {p: sum(w * float(c) for w, c in zip(luma, x[p], strict=True)) / 255 for p in places}
        steps = [abs(y[r, c] - y[q]) for r, c in places for q in ((r + 1, c), (r, c + 1)) if q in y]
        mean = sum(y.values()) / len(y)
        return {
            "brightness": mean,
            "contrast": (sum((v - mean) ** 2 for v in y.values()) / len(y)) ** 0.5,
            "saturation": sum(int(max(x[p])) - int(min(x[p])) for p in places) / 255 / len(places),
            "sharpness": sum(steps) / len(steps),
        }

    got, after, before = appearance(other[None], image, inside), look(other), look(image)
    for name in SIGNED:
        assert got[name][0] == pytest.approx(after[name] - before[name], abs=1e-6)
    error = (other[inside].astype(float) - image[inside]) / 255
    assert got["change"][0] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert got["cast_share"][0] == pytest.approx(
        (error.mean(axis=0) ** 2).sum() / (error**2).mean(axis=0).sum(), rel=1e-4
    )
    assert set(got) == {*SIGNED, *UNSIGNED}


@pytest.mark.parametrize("how", ["sharpness", "noise", "shift", "cast", "brightness"])
def test_the_distance_over_scales_grows_with_every_deviation(how):
    image, inside = scene(96, 96), region(96, 96)
    found = [pyramid_distance(changed(image, how, amount), image, inside) for amount in (0.0, 0.34, 0.67, 1.0)]
    assert found[0] == 0 and (np.diff(found) > 0).all()


@pytest.mark.parametrize("measure", [delta_e, pyramid_distance, lambda a, b, r: appearance(a[None], b, r)])
def test_regions_without_a_pixel_and_other_sizes_are_refused(measure):
    image = scene()
    with pytest.raises(ValueError, match="at least one pixel"):
        measure(image, image, np.zeros(image.shape[:2], dtype=bool))
    with pytest.raises(ValueError, match="expected"):
        measure(image, scene(32, 32), region())
