"""Tests of learner.state.checkpoint: whole or not at all, every byte verified."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.state import checkpoint
from learner.state.checkpoint import CheckpointError, load_latest, load_step, read_checkpoint, save_checkpoint
from learner.state.provenance import code_fingerprint
from locus.version import __version__

STATE = {"version": 3, "lr": 0.1 + 0.2, "slots": [[1, 2, 3]], "name": "ü"}
DATA = {"train": "a", "held_out": "b"}
FILES = ("MANIFEST.json", "state.json", "adapter.safetensors", "optimizer.safetensors")


def tensors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "adapter": {"b": torch.randn(2, 3, generator=generator), "a": torch.randn((), generator=generator)},
        "optimizer": {"a/exp_avg": torch.randn(5, generator=generator).double(), "n": torch.tensor([1, 2])},
    }


def save(folder: Path, step: int, keep: int = 2, seed: int = 0) -> Path:
    return save_checkpoint(folder, step, tensors(seed), STATE, keep, "hash", DATA, code_fingerprint())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_holds(loaded, expected) -> None:
    assert {n: set(group) for n, group in loaded.items()} == {n: set(group) for n, group in expected.items()}
    for name, group in expected.items():
        for key, value in group.items():
            assert loaded[name][key].dtype == value.dtype and torch.equal(loaded[name][key], value)


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path / "new" / "checkpoints", 7)
    loaded, refused = load_latest(path.parent)
    assert path.name == "step_000007" and names(path.parent) == ["step_000007"] and names(path) == sorted(FILES)
    assert refused == () and (loaded.step, loaded.config_hash, loaded.path) == (7, "hash", path)
    assert loaded.state == STATE
    assert_holds(loaded.tensors, tensors())
    assert loaded.data == DATA and loaded.code == code_fingerprint()
    assert loaded.libraries["locus"] == __version__
    assert loaded.libraries["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_equal_contents_give_equal_bytes(tmp_path):
    one, two = save(tmp_path / "one", 1), save(tmp_path / "two", 1)
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in FILES)


def test_a_tensor_that_is_a_view_or_needs_a_gradient_is_saved_by_value(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_checkpoint(tmp_path, 0, {"x": {"t": parameter.t(), "p": parameter}, "none": {}}, {}, 1, "", {}, {})
    loaded = load_step(tmp_path, 0).tensors
    assert torch.equal(loaded["x"]["t"], parameter.detach().t()) and loaded["none"] == {}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES = {"truncated": truncate, "emptied": empty, "grown": grow, "deleted": Path.unlink}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name_and_the_previous_checkpoint_is_used(tmp_path, file, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    DAMAGES[damage](newest / file)
    loaded, refused = load_latest(tmp_path)
    assert loaded.step == 1
    assert len(refused) == 1 and file in refused[0] and "step_000002" in refused[0]
    with pytest.raises(CheckpointError, match=file):
        load_step(tmp_path, 2)


@pytest.mark.parametrize("file", FILES)
def test_every_single_flipped_bit_is_noticed(tmp_path, file):
    path = save(tmp_path, 1)
    content = (path / file).read_bytes()
    rng = np.random.default_rng(0)
    # All bits of small files would take long; 300 places at random and both ends.
    places = sorted({0, len(content) - 1, *rng.integers(len(content), size=300).tolist()})
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (path / file).write_bytes(bytes(flipped))
        with pytest.raises(CheckpointError, match=r"MANIFEST\.json" if file == "MANIFEST.json" else file):
            read_checkpoint(path)
    (path / file).write_bytes(content)
    assert read_checkpoint(path).step == 1


def test_none_at_all_and_none_that_can_be_trusted_are_told_apart(tmp_path):
    assert load_latest(tmp_path / "absent") == (None, ())
    assert load_latest(tmp_path) == (None, ())
    empty(save(tmp_path, 1) / "state.json")
    loaded, refused = load_latest(tmp_path)
    assert loaded is None and len(refused) == 1
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 2.*\[1\]"):
        load_step(tmp_path, 2)


class Crash(BaseException):
    """The process is gone: nothing is cleaned up that a power cut would not clean up."""


def crash_points() -> list[str]:
    return ["mkdir", *[f"write {n}" for n in range(4)], *[f"fsync {n}" for n in range(6)], "rename"]


@pytest.mark.parametrize("point", crash_points())
def test_a_crash_anywhere_in_a_save_leaves_the_last_checkpoint(tmp_path, monkeypatch, point):
    save(tmp_path, 1, seed=1)
    call, _, number = point.partition(" ")
    counts = {"write": 0, "fsync": 0}

    def counted(kind, real):
        def wrapped(*args, **kwargs):
            if call == kind and counts[kind] == int(number):
                raise Crash
            counts[kind] += 1
            return real(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", counted("write", checkpoint._write))
        patch.setattr(os, "fsync", counted("fsync", os.fsync))
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        if call in ("mkdir", "rename"):

            def crash(*args, **kwargs):
                raise Crash

            patch.setattr(Path, call, crash)
        crashed = False
        try:
            save(tmp_path, 2, seed=2)
        except Crash:
            crashed = True
        if call == "fsync" and int(number) == 5:
            # The last one is that of the parent, after the rename.
            assert crashed and load_latest(tmp_path)[0].step == 2
            return
        assert crashed
    loaded, refused = load_latest(tmp_path)
    assert loaded.step == 1 and refused == ()
    assert_holds(loaded.tensors, tensors(1))
    save(tmp_path, 2, seed=2)
    assert names(tmp_path) == ["step_000001", "step_000002"]
    assert_holds(load_latest(tmp_path)[0].tensors, tensors(2))


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, content):
        path.write_bytes(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step_000001"]


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000010"]


def test_an_abandoned_continuation_goes_and_a_step_is_replaced(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    save(tmp_path, 2, keep=3, seed=9)
    assert names(tmp_path) == ["step_000001", "step_000002"]
    assert_holds(load_latest(tmp_path)[0].tensors, tensors(9))


def test_a_damaged_newest_is_replaced_by_the_run_that_goes_on(tmp_path):
    save(tmp_path, 1)
    empty(save(tmp_path, 2) / "adapter.safetensors")
    save(tmp_path, 2, seed=4)
    loaded, refused = load_latest(tmp_path)
    assert loaded.step == 2 and refused == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_a_state_that_is_not_json_is_refused_and_leaves_nothing(tmp_path, value):
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(tmp_path, 1, {}, {"x": value}, 1, "", {}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="file name"):
        save_checkpoint(tmp_path, 1, {name: {}}, {}, 1, "", {}, {})


@pytest.mark.parametrize(("step", "keep"), [(-1, 1), (0, 0)])
def test_bad_numbers_are_refused(tmp_path, step, keep):
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path, step, {}, {}, keep, "", {}, {})


def test_another_format_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        load_step(tmp_path, 1)


def test_a_manifest_that_is_json_of_another_kind_is_refused(tmp_path):
    path = save(tmp_path, 1)
    for content in ("[]", "{}", json.dumps({"manifest": {}, "sha256": ""}), "null"):
        (path / "MANIFEST.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
            read_checkpoint(path)


class Poison:
    def __reduce__(self):
        return Path.touch, (Path("poisoned"),)


def test_a_pickle_with_a_right_hash_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 1)
    content = pickle.dumps(Poison())
    (path / "adapter.safetensors").write_bytes(content)
    manifest = json.loads((path / "MANIFEST.json").read_bytes())["manifest"]
    manifest["files"]["adapter.safetensors"] = checkpoint._entry(content)
    (path / "MANIFEST.json").write_bytes(checkpoint._sealed(manifest))
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors cannot be read"):
        read_checkpoint(path)
    assert not Path("poisoned").exists()
