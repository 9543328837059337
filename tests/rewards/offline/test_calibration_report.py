import json
import math

import numpy as np
import pytest
from rich.console import Console

from rewards.offline import calibration
from rewards.offline.calibration_report import as_json, bars, report, shown, tables, verdict
from rewards.result import Score


def judged(rng, sources=20, candidates=6, passes=4, signal=0.1, noise=0.05):
    """Scores with passes, per source."""
    truth = rng.normal(0.5, signal, (sources, candidates))
    responses = truth[..., None] + rng.normal(0, noise, (*truth.shape, passes))
    return [[Score(value=float(a.mean()), passes=tuple(a.tolist())) for a in row] for row in responses], truth


def plain(values):
    return [[Score(value=float(value)) for value in row] for row in values]


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    good, truth = judged(rng)
    bad, _ = judged(rng, signal=0.01, noise=0.2)
    exact = plain(truth)
    good[3][2] = Score(error="good: no response")
    scored = [{"good": g, "bad": b, "exact": e} for g, b, e in zip(good, bad, exact, strict=True)]
    return scored, report(scored, ["acd is not there"])


def test_numbers_of_a_component_are_the_formulas(found):
    scored, result = found
    valid = [[s for s in of["good"] if s.value is not None] for of in scored]
    passes = np.array([s.passes for group in valid for s in group])
    values = np.array([s.value for group in valid for s in group])
    of = result.components["good"]
    assert (result.sources, result.edits) == (20, 120)
    assert (of.edits, of.errors, of.first_error, of.passes) == (119, 1, "good: no response", 4)
    assert of.range == calibration.value_range(values)
    assert sum(of.histogram) == 119
    assert of.noise == pytest.approx(math.sqrt(passes.var(axis=1, ddof=1).mean()))
    assert of.reliability == calibration.reliability(passes)
    assert of.averaged == calibration.averaged(of.reliability, 4)
    within = calibration.candidate_variance([np.array([s.value for s in group]) for group in valid])
    assert of.between == pytest.approx(math.sqrt(within))
    assert of.dynamic == calibration.dynamic_range(within, of.noise**2, 4)


def test_verdicts(found):
    components = found[1].components
    assert verdict(components["good"]).startswith("suffices")
    assert verdict(components["bad"]).startswith(("too noisy", "no signal"))
    assert verdict(components["exact"]) == "one response per edit, so no noise to compare with"
    flat = report([{"a": plain([[1, 1]])[0]}], []).components["a"]
    assert verdict(flat) == "the same for all candidates"
    single = report([{"a": plain([[1]])[0]}, {"a": plain([[2]])[0]}], []).components["a"]
    assert verdict(single) == "needs several edits of one source"
    rng = np.random.default_rng(1)
    responses, _ = judged(rng, sources=200, signal=0.1, noise=0.4, passes=2)
    noisy = report([{"a": group} for group in responses], []).components["a"]
    assert verdict(noisy) == f"too noisy: SNR 2 takes {noisy.dynamic.passes_needed} passes"
    assert noisy.dynamic.snr < 2 and 40 < noisy.dynamic.passes_needed < 100  # (2 * .4 / .1)^2 = 64


def test_agreement_takes_edits_that_both_have(found):
    _, result = found
    assert set(result.agreement) == {("good", "bad"), ("good", "exact"), ("bad", "exact")}
    assert result.agreement["good", "exact"].edits == 119
    assert result.agreement["good", "exact"].same_order > 0.85
    assert abs(result.agreement["bad", "exact"].same_order - 0.5) < 0.15


def test_a_component_without_any_value_is_reported():
    result = report([{"a": (Score(error="a: away"),) * 2, "b": plain([[1, 2]])[0]}], [])
    of = result.components["a"]
    assert (of.edits, of.errors, of.range, of.histogram, of.between) == (0, 2, None, (), None)
    assert result.agreement["a", "b"].spearman is None
    text = drawn(result)
    assert "–" in text and verdict(of) == "has no value at all"


def drawn(result):
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for table in tables(result):
            console.print(table)
    return capture.get()


def test_tables_and_json_hold_the_numbers(found):
    _, result = found
    text = drawn(result)
    for name, of in result.components.items():
        assert name in text and shown(of.between) in text
    assert "120 edits of 20 sources" in text and shown(result.components["good"].reliability) in text
    values = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert values["components"]["good"]["noise"] == result.components["good"].noise
    assert values["components"]["exact"]["dynamic"] is None
    assert values["agreement"][0]["components"] == ["good", "bad"]
    assert values["not_measured"] == ["acd is not there"]


def test_bars():
    assert bars([0, 1, 4, 8]) == " ▁▄█"
    assert bars([]) == "" and bars([0, 1000, 1]) == " █▁"
    assert shown(None) == "–" and shown(0.12345) == "0.123" and shown(123.4) == "123"
