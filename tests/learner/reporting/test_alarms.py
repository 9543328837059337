"""What counts as an alarm: on made-up candidates and held-out measurements, and on published means."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.reporting.alarms import (
    CHANGE,
    DRIFTS,
    VISIBLE,
    Alarm,
    candidate_alarms,
    due,
    held_out_alarms,
    reference,
)
from rewards.appearance import appearance

RESULTS = Path(__file__).parents[3] / "evaluation" / "results"


@pytest.mark.parametrize("name", ["keep_the_rest", "quickstart_seeds"])
def test_what_these_presets_do_by_the_published_means_is_not_told_of(name):
    (row,) = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    base, final = ([{name: found[when] for name, found in row["metrics"].items()}] * 16 for when in ("base", "final"))
    assert {"edit_score", "edit_psnr", "background_psnr", "background_ssim"} <= base[0].keys()
    assert held_out_alarms(base, [final], 120) == []  # as if the means had no error


def test_an_alarm_is_told_again_only_when_markedly_worse():
    alarm = Alarm("edit_psnr", 8, 2.0, "")
    assert due([alarm], {}) == [alarm] and due([alarm], {"edit_psnr": 1.4}) == []
    assert due([alarm], {"edit_psnr": 1.3, "edit_change": 0.1}) == [alarm]


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=30, max_size=30))
def test_the_start_is_no_alarm_against_itself(changes):
    groups = [{CHANGE: change, **{name: change for name in DRIFTS}} for change in changes]
    assert candidate_alarms(reference(groups), groups, 5) == []


def failing(generator, share: float, fails=lambda generator: generator.uniform(0.008, 0.012, 12)):
    """30 groups of 12 candidates; so many of them change nothing, the others change what an edit does."""
    return [
        {CHANGE: list(np.where(generator.random(12) < share, fails(generator), generator.uniform(0.1, 0.3, 12)))}
        for _ in range(30)
    ]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_candidates_that_all_copy_are_told_of_however_many_edits_the_base_fails(share):
    generator = np.random.default_rng(0)
    start = reference(failing(generator, share))
    assert candidate_alarms(start, failing(generator, share), 40) == []
    (alarm,) = candidate_alarms(start, failing(generator, 1.0), 40)
    assert alarm.metric == CHANGE and 0.9 <= alarm.size <= 1
    assert alarm.sentence.startswith("step 40: ") and alarm.sentence.count("the editor learns to copy its source") == 1
    assert "algorithm.preservation.velocity_weight" in alarm.sentence


def test_the_sentence_says_what_was_seen():
    generator = np.random.default_rng(0)
    seldom, often = (reference(failing(generator, share)) for share in (0.0, 0.3))
    (some,) = candidate_alarms(seldom, failing(generator, 0.4), 40)
    assert some.size == pytest.approx(0.4, abs=0.08)
    assert f"{some.size:.0%} of the candidates changed next to nothing" in some.sentence
    (less,) = candidate_alarms(often, failing(generator, 1.0), 40)
    assert f"the candidates change {1 - less.size:.0%} of what they did at the start" in less.sentence


def test_exact_copies_count():
    copies, edits = [0.0], [0.1 + 0.2 * i / 10 for i in range(11)]
    start = reference([{CHANGE: copies + edits}] * 30)
    assert start.unchanged == 0 and start.unchanged_share == pytest.approx(1 / 12)
    assert candidate_alarms(start, [{CHANGE: copies * 4 + edits[2:10]}] * 30, 40) == []  # four times as many
    (alarm,) = candidate_alarms(start, [{CHANGE: copies * 6 + edits[2:8]}] * 30, 40)
    assert alarm.size == pytest.approx(0.5, abs=0.05) and "no more than 0, as 8% did at the start" in alarm.sentence
    (alarm,) = candidate_alarms(start, [{CHANGE: copies * 12}] * 30, 40)
    assert alarm.size == 1.0
    often = reference([{CHANGE: copies * 6 + edits[:6]}] * 30)  # there cannot be five times as many
    assert candidate_alarms(often, [{CHANGE: copies * 7 + edits[:5]}] * 30, 40) == []
    assert len(candidate_alarms(often, [{CHANGE: copies * 12}] * 30, 40)) == 1


def test_a_start_that_happens_to_vary_little_is_no_measure_of_what_follows():
    """Few tasks have much of the variation; as in a run of the quickstart that was warned of at step 18."""
    name = "background_contrast_drift"
    usual = np.random.default_rng(0).normal(0, 0.006, 60)
    start = reference([{name: [value]} for value in usual])
    some = usual.copy()
    some[:12] -= 0.033
    assert abs(some.mean() - usual.mean()) > usual.std(ddof=1)
    assert candidate_alarms(start, [{name: [value]} for value in some], 18) == []
    (alarm,) = candidate_alarms(start, [{name: [value - 0.0066]} for value in usual], 18)
    assert alarm.metric == name and alarm.size == pytest.approx(-0.0066)


def test_half_of_the_change_is_lost_only_where_its_error_says_so():
    start = reference([{CHANGE: [0.0, 0.3, 0.3]}] * 30)  # a third is unchanged: there cannot be five times as many
    steady = [{CHANGE: [0.1] * 3}] * 15 + [{CHANGE: [0.08] * 3}] * 15
    wavering = [{CHANGE: [0.0] * 3}] * 22 + [{CHANGE: [0.3375] * 3}] * 8
    assert all(np.mean([group[CHANGE] for group in groups]) == pytest.approx(0.09) for groups in (steady, wavering))
    assert candidate_alarms(start, wavering, 40) == [] and len(candidate_alarms(start, steady, 40)) == 1


@pytest.mark.parametrize(
    ("name", "shift", "told"),
    [
        ("background_saturation_drift", 0.05, True),
        ("background_saturation_drift", -0.05, True),
        ("edit_contrast_drift", 0.01, False),
        ("background_cast_drift", 0.05, True),
        ("background_cast_drift", -0.05, False),
    ],
)
def test_a_look_may_shift_as_far_as_it_varied(name, shift, told):
    start = [{name: [0.02 * (i % 3)]} for i in range(30)]  # standard deviation 0.017
    alarms = candidate_alarms(reference(start), [{name: [one[name][0] + shift]} for one in start], 12)
    assert bool(alarms) == told
    for alarm in alarms:
        assert (alarm.metric, alarm.step) == (name, 12) and alarm.size == pytest.approx(shift)
        assert "outside the edit mask has shifted by" in alarm.sentence and "background_weight" in alarm.sentence


@pytest.mark.parametrize(
    ("name", "before", "shift", "told"),
    [
        ("background_saturation_drift", -0.10, 0.05, False),
        ("background_saturation_drift", -0.05, 0.15, True),
        ("background_saturation_drift", -0.10, -0.05, True),
        ("edit_saturation_drift", -0.10, 0.05, True),
    ],
)
def test_a_look_that_comes_nearer_to_the_source_outside_the_mask_is_no_alarm(name, before, shift, told):
    start = [{name: [before + 0.02 * (i % 3 - 1)]} for i in range(30)]
    assert bool(candidate_alarms(reference(start), [{name: [one[name][0] + shift]} for one in start], 12)) == told


@pytest.mark.parametrize(("truth", "told"), [({"edit_psnr": 20.0}, False), ({}, True)])
def test_nor_is_one_that_comes_nearer_to_the_target_inside(truth, told):
    base = [{"edit_contrast_drift": -0.10 + 0.02 * (i % 3 - 1), **truth} for i in range(30)]
    nearer = [{**row, "edit_contrast_drift": row["edit_contrast_drift"] + 0.08} for row in base]
    assert bool(held_out_alarms(base, [nearer], 8)) == told


@pytest.mark.parametrize("name", DRIFTS)
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_a_shift_that_nobody_can_see_is_none(name, noise):
    """As of an editor that puts the background of the source back: at the start there is next to no drift."""
    generator = np.random.default_rng(0)
    visible = VISIBLE[name.split("_")[1]]

    def drifting(shift):
        return [{name: float(value)} for value in shift + noise * generator.normal(size=30)]

    def candidates(rows):
        return [{name: [row[name]] for name in row} for row in rows]

    start = drifting(0.0)
    for shift, told in ((1e-9, False), (2e-5, False), (0.9 * visible, False), (1.2 * visible, True)):
        recent = drifting(shift)
        assert bool(candidate_alarms(reference(candidates(start)), candidates(recent), 12)) == told, shift
        assert bool(held_out_alarms(start, [recent], 12)) == told, shift


def test_what_can_be_seen_is_a_level_of_the_image_or_a_blur():
    levels = np.random.default_rng(0).integers(60, 180, size=(1, 32, 32, 1)).astype(np.uint8)
    image, region = np.repeat(levels, 3, axis=3), np.ones((32, 32), np.bool_)
    brighter, blurred = image + np.uint8(1), image.copy()
    blurred[:, 8:16, 8:16] = blurred[:, 8:16, 8:16].mean()  # a sixteenth of the image is flat
    assert appearance(brighter, image[0], region)["brightness"][0] > VISIBLE["brightness"]
    assert -appearance(blurred, image[0], region)["sharpness"][0] > VISIBLE["sharpness"]


def test_of_a_look_that_drifts_in_many_ways_the_worst_is_told_inside_and_outside():
    start = [{name: [0.02 * (i % 3)] for name in DRIFTS} for i in range(30)]
    far = {"edit_contrast_drift": 0.03, "edit_saturation_drift": 0.09, "background_cast_drift": 0.04}
    recent = [{name: [values[0] + far.get(name, 0.0)] for name, values in one.items()} for one in start]
    told = [alarm.metric for alarm in candidate_alarms(reference(start), recent, 12)]
    assert told == ["edit_saturation_drift", "background_cast_drift"]


def test_a_fall_that_is_small_or_within_its_error_is_none():
    base = [{"edit_score": 0.6, "edit_psnr": 20.0 + i % 2} for i in range(16)]

    def fell(score, psnr):
        return [
            a.metric
            for a in held_out_alarms(
                base,
                [
                    [
                        {"edit_score": row["edit_score"] - score(i), "edit_psnr": row["edit_psnr"] - psnr(i)}
                        for i, row in enumerate(base)
                    ]
                ],
                8,
            )
        ]

    assert fell(lambda i: 0.05, lambda i: 0.9) == []
    assert fell(lambda i: 0.1, lambda i: 1.2) == ["edit_score", "edit_psnr"]
    assert fell(lambda i: 1.6 if i == 0 else 0, lambda i: 0) == []  # one task of sixteen: within the error
    assert held_out_alarms(base, [[{}] * 16], 8) == []


def test_a_background_that_is_lost_is_told_of_like_an_edit():
    generator = np.random.default_rng(0)

    def rows(psnr, ssim):
        return [{"background_psnr": psnr + x, "background_ssim": ssim + 0.01 * x} for x in generator.normal(size=64)]

    base, lost = rows(30, 0.95), rows(14, 0.1)
    told = held_out_alarms(base, [lost, lost], 8, ([1.0, 2.0], [3.0, 4.0]))
    assert [(alarm.metric, round(alarm.size)) for alarm in told] == [("background_psnr", 16), ("background_ssim", 1)]
    for alarm in told:
        assert f"step 8: {alarm.metric} on the held-out tasks fell by " in alarm.sentence
        assert "while the training reward rose from 1.5 to 3.5" in alarm.sentence
        assert "raise algorithm.preservation.background_weight" in alarm.sentence
        assert "do not measure the edit" not in alarm.sentence
    assert held_out_alarms(base, [base, lost], 8) == held_out_alarms(base, [lost, base], 8) == []  # not twice in a row
    assert held_out_alarms(base, [rows(29.3, 0.9)], 8) == []  # less than a decibel, less than a tenth
    assert held_out_alarms(base[:7], [lost[:7]], 8) == []
    assert held_out_alarms(base, [rows(34, 0.99)], 8) == []


def test_a_reward_that_only_wavers_did_not_rise():
    base, fallen = [{"edit_score": 0.6}] * 16, [[{"edit_score": 0.4}] * 16]

    def sentence(*rewards):
        return held_out_alarms(base, fallen, 8, rewards)[0].sentence

    assert "while the training reward rose from 1.5 to 3.5" in sentence([1.0, 2.0], [3.0, 4.0])
    for rewards in (
        ([1.0, 2.0], [1.4, 1.9]),
        ([1e-18, -2e-18], [3e-18, -1e-18]),
        ([3.0, 4.0], [1.0, 2.0]),
        ([], [1.0]),
    ):
        assert "reward rose" not in sentence(*rewards)


def test_a_measure_that_few_groups_have_counts_by_those_that_have_it():
    name, other = "background_saturation_drift", "edit_contrast_drift"
    start = [{name: [0.02 * (i % 3)]} if i < 9 else {other: [0.0]} for i in range(30)]
    assert reference(start).groups == {name: 9, other: 21}
    shifted = [{name: [one[name][0] + 0.022]} for one in start[:9]]  # 2.7 standard errors of 9 groups, 3.4 of 30
    assert candidate_alarms(reference(start), shifted, 12) == []
    assert bool(candidate_alarms(reference(start), [{name: [0.05]}] * 8, 12))
    assert candidate_alarms(reference(start), [{name: [0.05]}] * 7, 12) == []  # too few
    assert reference(start[2:]).sd.keys() == {other}


def test_candidates_that_were_not_measured_are_no_alarm():
    start = reference([{}] * 30)
    assert start.unchanged is None and start.sd == {}
    assert candidate_alarms(start, [{}] * 30, 40) == []
