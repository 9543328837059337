"""Named regions of a manifest's lines, from the file to the task, and what a run says where one is missing."""

import numpy as np
import pytest
from PIL import Image

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.manifest import ManifestDataset, ManifestError
from editing.manifest.packed import PackedManifest
from editing.task import TaskError
from tests.editing.test_manifest import HEIGHT, LINE, MASK, WIDTH, folder, only_fault, write

__all__ = ["folder"]

HAT = np.zeros((HEIGHT, WIDTH), dtype=bool)
HAT[3:6, 4:8] = True
WITH_HAT = {**LINE, "regions": {"hat": "hat.png", "shoe": "none.png"}}


@pytest.fixture
def data(folder):
    Image.fromarray(HAT).save(folder / "hat.png")
    Image.fromarray(np.zeros_like(HAT)).save(folder / "none.png")
    Image.fromarray(HAT[:-1]).save(folder / "small.png")
    return folder


@pytest.mark.parametrize("polarity", ["edit_is_white", "edit_is_black"])
def test_white_is_the_region_whatever_the_polarity_of_the_mask(data, polarity):
    """And a region may be empty."""
    header = {"locus_manifest": 1, "mask_polarity": polarity}
    dataset = ManifestDataset(write(data, {**WITH_HAT, "mask_polarity": polarity}, header=header))
    for task in (dataset[0], PackedManifest(dataset)[0]):
        assert list(task.regions) == ["hat", "shoe"]
        assert np.array_equal(task.regions["hat"], HAT) and not task.regions["shoe"].any()
        assert np.array_equal(task.edit_mask, MASK if polarity == "edit_is_white" else ~MASK)


def test_the_regions_are_part_of_the_data(data):
    plain = ManifestDataset(write(data, LINE))
    assert plain[0].regions == {} and PackedManifest(plain)[0].regions == {}
    with_hat = ManifestDataset(write(data, WITH_HAT))
    assert with_hat.fingerprint != plain.fingerprint
    Image.fromarray(~HAT).save(data / "hat.png")
    with pytest.raises(TaskError, match=r"region hat .*hat\.png has changed since"):
        with_hat[0]
    assert ManifestDataset(write(data, WITH_HAT)).fingerprint != with_hat.fingerprint


def test_a_checked_line_is_checked_again_when_a_region_changes(data, tmp_path):
    path = write(data, WITH_HAT)
    before = ManifestDataset(path, cache_folder=tmp_path / "checked").fingerprint
    assert ManifestDataset(path, cache_folder=tmp_path / "checked").fingerprint == before
    Image.fromarray(~HAT).save(data / "hat.png")
    assert ManifestDataset(path, cache_folder=tmp_path / "checked").fingerprint != before


@pytest.mark.parametrize(
    ("regions", "sentence"),
    [
        (["hat.png"], 'regions: expected an object of names and paths, {"hat": "hat.png"}'),
        ({" ": "hat.png"}, "regions: expected an object of names and paths"),
        ({"hat": 3}, "hat: expected a non-empty text, got 3"),
        ({"hat": "no_such.png"}, "no_such.png"),
        ({"hat": "small.png"}, f"the region 'hat' must have the size of the upright source, {WIDTH} × {HEIGHT}"),
        ({"background": "hat.png"}, "regions: 'background' is what every task has by its mask"),
    ],
)
def test_a_region_that_is_none_is_a_fault_of_its_line(data, regions, sentence):
    assert sentence in only_fault(data, {**LINE, "regions": regions})


def run_config(editor, path, **regions: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "editor": {"path": str(editor)},
            "folder": str(path.parent / "runs"),
            "data": {"type": "manifest", "path": str(path), "resolution": 32, "held_out_fraction": 0.0},
            "algorithm": {"type": "edit_grpo"},
            "rewards": {"weights": {"background_psnr": 1.0, "background_ssim": 1.0}, "regions": regions},
        }
    )


def test_a_run_wants_the_regions_that_its_rewards_name_in_every_line(tiny_kontext, data):
    path = write(data, WITH_HAT, {**LINE, "id": "bare"})
    assert open_tasks(run_config(tiny_kontext, path)).train[1].regions == {}
    with pytest.raises(
        ManifestError, match=r"'hat' must be a region of every training line, but 1 of 2 .* is line 3\)"
    ):
        open_tasks(run_config(tiny_kontext, path, background_ssim="hat"))
    whole = write(data, WITH_HAT, {**WITH_HAT, "id": "other"})
    task = open_tasks(run_config(tiny_kontext, whole, background_ssim="hat")).train[0]
    assert task.regions["hat"].shape == task.edit_mask.shape and task.regions["hat"].any()


def test_the_benchmark_has_no_regions_of_its_own():
    with pytest.raises(ConfigError, match=r"rewards\.regions: expected edit or background, .* got 'hat'"):
        load_config(["--config", "edit_grpo", "--rewards.regions.edit_psnr", "hat"])
    moved = load_config(["--config", "edit_grpo", "--rewards.regions.edit_psnr", "background"])
    assert moved.rewards.regions == {"edit_psnr": "background"}
