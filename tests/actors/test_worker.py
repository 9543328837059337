"""A worker works only under weights that it has proved, and gives base and trained the same noise."""

import os

import numpy as np
import pytest
import torch

from actors.rollout import roll_out, sample
from actors.worker import RolloutWorker, WrongVersion, held_out_seed
from configs.load import config_hash
from editing.data import open_tasks
from editing.editors.lora import adapter_parameters
from editing.editors.policy import open_policy
from editing.trajectory import Lease
from editing.weights import WeightError, WeightVersion
from tests.learner.tiny_run import tiny_run


def lease(version: int) -> Lease:
    return Lease(step=0, slot=0, task_index=2, attempt=0, seed=11, policy_version=version)


@pytest.fixture(scope="module")
def config(tiny_kontext, tmp_path_factory):
    return tiny_run(tiny_kontext, tmp_path_factory.mktemp("runs"), "w")


@pytest.fixture(scope="module")
def versions(config) -> list[WeightVersion]:
    """Version 0 as every process attaches it, and a trained version 4."""
    editor = open_policy(config.editor, config.seed)
    fresh = WeightVersion.capture(editor.transformer, 0).copied()
    with torch.no_grad():
        for parameter in adapter_parameters(editor.transformer).values():
            parameter.add_(0.1)
    return [fresh, WeightVersion.capture(editor.transformer, 4)]


@pytest.fixture
def worker(config) -> RolloutWorker:
    return RolloutWorker(config)


def test_a_new_worker_refuses_work_until_it_has_weights(worker, versions):
    with pytest.raises(WrongVersion, match=r"asks for policy version 0, but worker \d+ holds None"):
        worker.roll_out(lease(0))
    receipt = worker.set_weights(versions[0])
    assert receipt.pid == os.getpid()
    assert (receipt.proof.version, receipt.proof.fingerprint) == (0, versions[0].fingerprint)
    assert receipt.proof.modules == versions[0].modules > 0
    worker.roll_out(lease(0))


def test_a_lease_for_another_version_is_refused(worker, versions):
    worker.set_weights(versions[1])
    for version in (0, 3, 5):
        with pytest.raises(WrongVersion, match="holds 4"):
            worker.roll_out(lease(version))


def test_a_group_is_made_by_the_version_that_the_worker_holds(config, worker, versions):
    worker.set_weights(versions[0])
    _, before = worker.roll_out(lease(0))
    worker.set_weights(versions[1])
    generated, after = worker.roll_out(lease(4))
    assert (generated.lease, generated.policy_version, generated.pid) == (lease(4), 4, os.getpid())
    assert generated.config_hash == after.config_hash == config_hash(config)
    assert generated.task_id == after.task_id and after.policy_version == 4
    assert not np.array_equal(before.candidates, after.candidates)
    # The same weights in another process' editor would give the same bits.
    editor, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    versions[1].apply(editor.transformer)
    again = roll_out(editor, tasks.train[2], lease(4), config, "x")
    assert np.array_equal(again.candidates, after.candidates) and np.array_equal(again.acd, after.acd)


def test_a_worker_that_refused_weights_holds_none_until_it_takes_some(worker, versions):
    worker.set_weights(versions[0])
    name = next(iter(versions[1].arrays))
    changed = {**versions[1].arrays, name: versions[1].arrays[name] + 1e-6}
    with pytest.raises(WeightError, match="they changed on the way"):
        worker.set_weights(WeightVersion(4, changed, versions[1].fingerprint, versions[1].modules))
    with pytest.raises(WrongVersion, match="holds None"):
        worker.roll_out(lease(0))
    worker.set_weights(versions[0])
    worker.roll_out(lease(0))


def test_held_out_noise_depends_on_the_task_alone(config, worker, versions):
    worker.set_weights(versions[0])
    base, fresh = worker.sample_held_out([0, 2], base=True), worker.sample_held_out([2, 0], base=False)
    # An untrained adapter changes nothing, so the same noise must give the same images.
    assert np.array_equal(base[0], fresh[1]) and np.array_equal(base[1], fresh[0])
    assert base[0].shape == (64, 64, 3) and not np.array_equal(base[0], base[1])
    worker.set_weights(versions[1])
    trained = worker.sample_held_out([0, 2], base=False)
    assert not np.array_equal(trained[0], base[0])
    assert np.array_equal(worker.sample_held_out([0], base=True)[0], base[0])
    assert len({held_out_seed(index) for index in range(1000)}) == 1000


def test_images_for_the_gallery_are_those_that_are_measured(config, worker, versions):
    worker.set_weights(versions[1])
    for base in (False, True):
        (shown,) = worker.show_held_out([1], base)
        assert np.array_equal(shown.image, worker.sample_held_out([1], base)[0]) and shown.index == 1
        assert shown.attention.shape == (8, 8)
    editor, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    alone = sample(editor, tasks.held_out[1], held_out_seed(1), 2, "euler")
    assert np.array_equal(shown.image, alone)  # the last one was the base
