"""Event logs of small real runs; tests doctor copies of them."""

import pytest

import learner.scheduling.collector
from actors.worker import RolloutWorker, WrongVersion
from learner.run import run
from tests.learner.state.test_rollback import spoiled
from tests.learner.test_bad_data import Vandal, manifest_run
from tests.learner.test_run import Interrupt, Interrupted
from tests.learner.tiny_run import tiny_run

SMALL = {
    "learner": {"steps": 3},
    "data": {"held_out_tasks": 1},
    "report": {"gallery_tasks": 0, "gallery_groups": 0, "evaluate_every": 2},
}


@pytest.fixture(scope="session")
def finished(tiny_kontext, tmp_path_factory):
    """Three steps of two groups of three, measured after the second."""
    folder = tmp_path_factory.mktemp("audited")
    run(tiny_run(tiny_kontext, folder, "run", SMALL))
    return folder / "run"


@pytest.fixture(scope="session")
def resumed(tiny_kontext, tmp_path_factory):
    """A run of four steps that was interrupted after the third and resumed from the second; its groups are up to one
    version old, and versions are published every other step."""
    folder = tmp_path_factory.mktemp("audited_resumed")
    config = tiny_run(
        tiny_kontext, folder, "run", {**SMALL, "learner": {"steps": 4}, "cluster": {"staleness": 1, "publish_every": 2}}
    )
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(3)])
    run(config, resume=True)
    return folder / "run"


@pytest.fixture(scope="session")
def redone(tiny_kontext, tmp_path_factory):
    """A run of five steps in which a group was rejected and another one lost, and tasks went bad."""
    folder, roll_out = tmp_path_factory.mktemp("audited_redone"), RolloutWorker.roll_out
    admit = learner.scheduling.collector.admit

    def fails_once(worker, lease):
        if lease.group_id == "000002.001.0":
            raise WrongVersion("not this time")
        return roll_out(worker, lease)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutWorker, "roll_out", fails_once)
        patch.setattr(
            learner.scheduling.collector,
            "admit",
            lambda scores, least: "not this one" if scores.group_id == "000000.001.0" else admit(scores, least),
        )
        data, config = manifest_run(tiny_kontext, folder, "run", "inline")
        run(config, observers=[Vandal(data)])
    return folder / "runs" / "run"


@pytest.fixture(scope="session")
def went_back(tiny_kontext, tmp_path_factory):
    """A run of eight steps that skipped steps 4 to 8, went back to step 2 and ended with other noise."""
    folder = tmp_path_factory.mktemp("audited_went_back")
    with pytest.MonkeyPatch.context() as patch:
        spoiled(patch, lambda lease: lease.step >= 3 and lease.attempt == 0)
        run(tiny_run(tiny_kontext, folder, "run", {**SMALL, "learner": {"steps": 9}}))
    return folder / "run"


@pytest.fixture(scope="session")
def skipped(tiny_kontext, tmp_path_factory):
    """A run of four steps whose second was skipped."""
    folder = tmp_path_factory.mktemp("audited_skipped")
    with pytest.MonkeyPatch.context() as patch:
        spoiled(patch, lambda lease: lease.step == 1)
        run(tiny_run(tiny_kontext, folder, "run", {**SMALL, "learner": {"steps": 4}}))
    return folder / "run"
