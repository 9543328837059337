"""Learners that train together, as processes over gloo, make the step of one that trains alone."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from learner.update import data_parallel
from learner.update.data_parallel import Peers
from learner.update.step_report import StepReport, StepTotals, together
from tests.learner.peer import train
from tests.learner.rig import Rig, made_scores, tiny_config


@pytest.fixture(scope="module")
def forkserver():
    """Processes come from one that has imported everything: a second each instead of ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.learner.peer"])
    return context


@pytest.fixture
def processes(forkserver, tmp_path):
    def run(requests):
        """Trains with one process per request; what each left."""
        where, size = data_parallel.meeting_point(), len(requests)
        responses = [tmp_path / f"{rank}.json" for rank in range(size)]
        started = [
            forkserver.Process(target=train, args=(rank, size, where, requests[rank], responses[rank]))
            for rank in range(size)
        ]
        for one in started:
            one.start()
        for one in started:
            one.join(240)
        assert [one.exitcode for one in started] == [request.get("exit", 0) for request in requests]
        assert not Path(where).parent.exists()
        return [json.loads(response.read_text()) for response in responses]

    return run


@pytest.mark.parametrize(
    ("size", "over"),
    [
        (
            2,
            {
                "learner": {"groups_per_step": 3, "optimizer": {"ema": 0.5}},
                "algorithm": {"preservation": {"background_target": 28.0}},
            },
        ),
        (
            3,
            {
                "learner": {"groups_per_step": 4, "updates_per_step": 2},
                "algorithm": {"kl_weight": 0.5},
                "rewards": {"normalisation": "minibatch"},
            },
        ),
    ],
)
def test_they_end_with_the_weights_of_one_that_trains_alone(size, over, processes, tiny_kontext, tmp_path):
    config = tiny_config(tiny_kontext, **over)
    alone = Rig(config, tmp_path / "alone")
    reports = [alone.step(step) for step in range(2)]
    request = {"config": config.model_dump(mode="json"), "folder": str(tmp_path / "peers"), "steps": 2}
    # The last one has larger roundings; the checkpoint, which the first one writes, has those of all.
    responses = processes([request] * (size - 1) + [{**request, "noise": 1e-4}])
    assert [one["leap_noise"] for one in responses] == [1e-4] * size
    assert len({(one["fingerprint"], one["measured"]) for one in responses}) == 1  # to the bit
    assert all(one["constraint"] == alone.learner.state["constraint"] for one in responses)
    mine = alone.learner.publish().arrays
    for name, array in mine.items():
        theirs = np.array(responses[0]["arrays"][name], dtype=np.float32)
        np.testing.assert_allclose(theirs, array, rtol=1e-4, atol=1e-6)
    fresh = [name for name in mine if ".lora_B." in name]
    assert any(np.abs(mine[name]).max() > 1e-4 for name in fresh)  # they all moved
    # Each had a share, and the shares together say what one says alone.
    assert [one["metrics"][0]["groups"] for one in responses] == [
        sum(place % size == rank for place in range(config.learner.groups_per_step)) for rank in range(size)
    ]
    for step, report in enumerate(reports):
        both = {key: np.mean([one["metrics"][step][key] for one in responses]) for key in ("gradient_norm", "lr")}
        assert both["lr"] == report.metrics["lr"]
        assert both["gradient_norm"] == pytest.approx(report.metrics["gradient_norm"], rel=1e-3)
        assert sum(one["metrics"][step]["groups"] for one in responses) == report.metrics["groups"]


def test_a_gradient_that_is_not_finite_anywhere_skips_the_step_everywhere(processes, tiny_kontext, tmp_path):
    config = tiny_config(tiny_kontext)
    request = {"config": config.model_dump(mode="json"), "folder": str(tmp_path / "peers"), "steps": 1}
    responses = processes([request, {**request, "spoil": True}])
    assert [one["applied"] for one in responses] == [[False], [False]]
    untouched = Rig(config, tmp_path / "alone").learner.publish().fingerprint
    assert {one["fingerprint"] for one in responses} == {untouched}


def test_what_is_left_of_a_group_says_so_and_listens_on_this_machine_only(processes, tiny_kontext, tmp_path):
    request = {"config": tiny_config(tiny_kontext).model_dump(mode="json"), "folder": str(tmp_path / "p"), "steps": 1}
    left, gone = processes([{**request, "listens": True}, {**request, "exit": 9}])
    assert gone["listens"] == left["listens"] == ["127.0.0.1"]
    assert "learner process 0 of 2 lost the others in the middle of a step: " in left["error"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_place_has_one_taker(size):
    for place in range(11):
        assert [Peers(rank, size).takes(place) for rank in range(size)].count(True) == 1


def test_reports_of_different_steps_are_no_report():
    with pytest.raises(ValueError, match="made different steps"):
        together([StepReport(3, True, 0, StepTotals()), StepReport(3, False, 1, StepTotals())])


def test_shares_add_up():
    shares = [
        StepTotals(spooled={"0.0.0": 0.1}, leap_errors=[1e-6], gradient_norms=[2.0], lr=0.1),
        StepTotals(spooled={"0.1.0": 0.2}, leap_errors=[3e-6], gradient_norms=[2.0], lr=0.1),
    ]
    shares[0].counts["groups"], shares[1].counts["groups"] = 1, 1
    shares[0].seconds["spool"], shares[1].seconds["spool"] = 0.1, 0.2
    totals = together([StepReport(1, True, 0, share) for share in shares]).totals
    assert totals.spooled == {"0.0.0": 0.1, "0.1.0": 0.2} and totals.seconds["spool"] == 0.2
    metrics = totals.metrics()
    assert metrics["groups"] == 2 and metrics["leap_error"] == 3e-6 and metrics["gradient_norm"] == 2.0


def test_alone_nothing_is_asked_of_torch_distributed(tiny_kontext, tmp_path):
    rig = Rig(tiny_config(tiny_kontext), tmp_path)
    group = rig.groups(0)[0]
    rig.learner.consume(group, made_scores(group))
    before = {name: p.grad for name, p in rig.learner.parameters.items()}
    rig.learner.peers.add_up(rig.learner.parameters.values())
    assert all(p.grad is before[name] for name, p in rig.learner.parameters.items())
