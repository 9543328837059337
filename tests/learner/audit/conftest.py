"""Event logs of small real runs; tests doctor copies of them."""

import pytest

from learner.train import run
from tests.learner.test_train import Interrupt, Interrupted
from tests.learner.tiny_run import tiny_run

SMALL = {"learner": {"steps": 3}, "data": {"held_out_tasks": 1},
         "report": {"gallery_tasks": 0, "gallery_groups": 0, "evaluate_every": 2}}


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
    config = tiny_run(tiny_kontext, folder, "run", {
        **SMALL, "learner": {"steps": 4}, "cluster": {"staleness": 1, "publish_every": 2}})
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(3)])
    run(config, resume=True)
    return folder / "run"
