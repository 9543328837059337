"""The paper's numbers, and the sentences that are made where ours go another way."""

import pytest

from evaluation.ablation.paper import BANDWIDTHS, COUNTERPARTS, TABLE2, TABLE3, disagreements, pairs
from evaluation.ablation.rows import HEADLINE
from evaluation.significance import row_differences


def gains(*steps):
    """Rows whose gains grow by `steps` from one to the next, in five seeds with little noise."""
    rows, level = {}, 0.0
    for name, step in zip(("global", "rdp", "rdp_acd"), steps, strict=True):
        level += step
        rows[name] = [dict.fromkeys(HEADLINE, level + noise) for noise in (0, 0.01, 0.02, -0.01, -0.02)]
    return rows


def found(rows):
    # Noise that the rows of a seed do not share: paired differences vary.
    shifted = {
        name: [{m: v + 0.001 * (k * number % 3) for m, v in seed.items()} for k, seed in enumerate(seeds)]
        for number, (name, seeds) in enumerate(rows.items())
    }
    return row_differences(shifted, pairs(TABLE2), HEADLINE)


def test_the_full_method_is_in_both_tables_with_the_same_numbers():
    assert TABLE2.rows["rdp_acd"] == TABLE3.rows["tau_.9_1.1"]
    assert BANDWIDTHS["tau_.9_1.1"] == (0.9, 1.1) and set(BANDWIDTHS) == set(TABLE3.rows)
    assert TABLE2.rows["global"]["PSNR"] < TABLE2.rows["base"]["PSNR"] < TABLE2.rows["rdp"]["PSNR"]
    assert set(COUNTERPARTS.values()) <= set(HEADLINE)
    for table in (TABLE2, TABLE3):
        assert {name for step in table.steps for name in step} <= set(table.rows)
        assert all(set(row) == set(COUNTERPARTS) for row in table.rows.values())


def test_the_same_direction_is_no_disagreement():
    """From global to rdp all but LPIPS grow in the paper."""
    sentences = disagreements(TABLE2, found(gains(0.5, 1.0, 1.0)))
    (step,) = [sentence for sentence in sentences if sentence.startswith("From global to rdp ")]
    assert step.count("here") == 1 and "LPIPS -0.004, here background_pyramid" in step and "the opposite" in step


def test_a_difference_that_is_not_found_and_one_the_other_way_are_told_apart():
    sentences = disagreements(TABLE2, found(gains(0.5, -1.0, 0.0)))
    opposite = next(sentence for sentence in sentences if sentence.startswith("From global to rdp "))
    none = next(sentence for sentence in sentences if sentence.startswith("From rdp to rdp_acd "))
    assert "PSNR +0.404, here background_psnr -0.9" in opposite and opposite.count("the opposite") == 4
    assert "LPIPS" not in opposite
    assert none.count("no difference found") == 5 and "the opposite" not in none


def test_what_the_paper_leaves_as_it_is_is_not_looked_at():
    rows = {name: [dict.fromkeys(HEADLINE, 0.0), dict.fromkeys(HEADLINE, 0.1)] for name in BANDWIDTHS}
    for sentence in disagreements(TABLE3, row_differences(rows, pairs(TABLE3), HEADLINE)):
        if "to tau_1.2_.8" in sentence:
            assert "LPIPS" not in sentence and "LC-T" in sentence
            break
    else:
        pytest.fail("the step to (1.2, .8) has a difference in the paper, and none here")


def test_one_seed_finds_nothing():
    rows = {name: [dict.fromkeys(HEADLINE, number)] for number, name in enumerate(("global", "rdp", "rdp_acd"))}
    sentences = disagreements(TABLE2, row_differences(rows, pairs(TABLE2), HEADLINE))
    assert len(sentences) == len(TABLE2.steps) and all("(one seed): no difference found" in one for one in sentences)
