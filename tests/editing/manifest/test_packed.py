import pickle

import numpy as np
import pytest
from PIL import Image

from configs.schema import RunConfig
from editing.data import open_tasks
from editing.manifest import ManifestDataset
from editing.manifest.packed import PackedManifest
from editing.task import TaskError
from tests.editing.manifest.test_notes import LINES, folder, manifest

__all__ = ["folder"]


def same(one, other):
    assert (one.task_id, one.instruction, one.caption, one.meta) == (
        other.task_id,
        other.instruction,
        other.caption,
        other.meta,
    )
    assert np.array_equal(one.source, other.source) and np.array_equal(one.edit_mask, other.edit_mask)
    assert (one.target is None) == (other.target is None)


@pytest.fixture
def dataset(folder):
    lines = [
        {**line, "id": name, "caption": "é 猫", "target": line["source"]} if name != "plain" else line
        for name, (line, _) in LINES.items()
    ]
    return ManifestDataset(manifest(folder, *lines))


def test_the_tasks_are_those_of_the_manifest(dataset):
    packed = PackedManifest(dataset)
    assert (len(packed), packed.fingerprint) == (len(dataset), dataset.fingerprint) and len(dataset) == len(LINES)
    for index in range(len(dataset)):
        same(packed[index], dataset[index])
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError):
            packed[index]


def test_a_file_that_changed_is_an_error_in_the_process_that_reads_it(dataset, folder):
    packed = pickle.loads(pickle.dumps(PackedManifest(dataset)))
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(folder / "wide.png")
    with pytest.raises(TaskError, match=r"manifest\.jsonl, line 2 .* has changed since"):
        packed[0]


def test_tasks_that_are_handed_on_are_shared_and_not_copied(dataset):
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(PackedManifest(dataset), protocol=5, buffer_callback=buffers.append)
    assert len(small) < 1000 < sum(len(buffer.raw()) for buffer in buffers)


@pytest.mark.parametrize("kind", ["manifest", "shapes"])
def test_what_is_handed_on_is_the_same_data_without_what_was_found_in_it(kind, folder, tiny_kontext):
    data = {"type": "shapes", "train_tasks": 3, "held_out_tasks": 2}
    if kind == "manifest":
        data = {
            "type": "manifest",
            "resolution": 32,
            "max_faulty_fraction": 0.5,
            "held_out_fraction": 0.3,
            "path": str(manifest(folder, *(line for line, _ in LINES.values()), {"source": "none.png"})),
        }
    tasks = open_tasks(
        RunConfig.model_validate(
            {
                "folder": str(folder / "runs"),
                "editor": {"path": str(tiny_kontext)},
                "data": data,
                "rewards": {"weights": {"background_psnr": 1.0}},
                "algorithm": {"preservation": {"velocity_weight": 1.0}},
            }
        )
    )
    same(tasks.train[0], tasks.train[0])  # something is kept that is not handed on
    handed = pickle.loads(pickle.dumps(tasks.sources_only()))
    assert handed.fingerprints == tasks.fingerprints and not handed.faults and not handed.remarks
    for mine, other in ((handed.train, tasks.train), (handed.held_out, tasks.held_out)):
        assert len(mine) == len(other)
        for index in range(len(mine)):
            same(mine[index], other[index])
