"""Tests of editing.weights."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

from editing.editors.lora import adapter_arrays, adapter_parameters, attach_lora, copy_arrays, without_adapter
from editing.weights import WeightError, WeightProof, WeightVersion, fingerprint


def load(folder) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer")


@pytest.fixture(scope="module")
def published(tiny_kontext) -> WeightVersion:
    learner = load(tiny_kontext)
    attach_lora(learner, rank=2, alpha=4, seed=0)
    rng = np.random.default_rng(0)
    copy_arrays(learner, {n: rng.normal(size=a.shape).astype("f4") for n, a in adapter_arrays(learner).items()})
    return WeightVersion.capture(learner, version=3)


@pytest.fixture
def worker(tiny_kontext) -> FluxTransformer2DModel:
    worker = load(tiny_kontext)
    attach_lora(worker, rank=2, alpha=4, seed=1)
    return worker


def test_a_version_arrives_and_is_proven_from_the_module(published, worker):
    receipt = published.apply(worker)
    held = adapter_arrays(worker)
    assert receipt == WeightProof(3, published.fingerprint, 22)
    assert fingerprint(held) == published.fingerprint == fingerprint(published.arrays)
    assert all(np.array_equal(held[name], published.arrays[name]) for name in held)


def changed(version: WeightVersion, change, announce: bool) -> WeightVersion:
    """`version` with its arrays changed in place by `change`; `announce` = the fingerprint follows."""
    arrays = {name: array.copy() for name, array in version.arrays.items()}
    change(arrays, sorted(arrays)[0])
    return dataclasses.replace(
        version, arrays=arrays, fingerprint=fingerprint(arrays) if announce else version.fingerprint
    )


FAULTS = {
    "1 are missing": lambda arrays, name: arrays.pop(name),
    "1 are unknown": lambda arrays, name: arrays.update(other=np.zeros((1, 1), np.float32)),
    r"expected float32 \[": lambda arrays, name: arrays.update({name: arrays[name].T.copy()}),
    "got float64": lambda arrays, name: arrays.update({name: arrays[name].astype(np.float64)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unfit_weights_are_refused_and_the_old_ones_kept(published, worker, fault):
    before = fingerprint(adapter_arrays(worker))
    with pytest.raises(WeightError, match="Version 3 was refused.*" + fault):
        changed(published, FAULTS[fault], announce=True).apply(worker)
    assert fingerprint(adapter_arrays(worker)) == before


def test_weights_changed_on_the_way_are_refused(published, worker):
    def flip_a_bit(arrays, name):
        arrays[name].view(np.uint32)[0, 0] ^= 1

    with pytest.raises(WeightError, match="changed on the way"):
        changed(published, flip_a_bit, announce=False).apply(worker)


def test_another_number_of_modules_is_refused(published, worker):
    before = fingerprint(adapter_arrays(worker))
    with (
        pytest.raises(WeightError, match="22 modules at the learner, but on 0 here"),
        without_adapter(worker),
    ):
        published.apply(worker)
    with pytest.raises(WeightError, match="21 modules at the learner, but on 22 here"):
        dataclasses.replace(published, modules=21).apply(worker)
    assert fingerprint(adapter_arrays(worker)) == before


def test_a_module_of_half_precision_is_refused(published, worker):
    for parameter in worker.parameters():
        parameter.data = parameter.data.bfloat16()
    before = fingerprint(adapter_arrays(worker))
    with pytest.raises(WeightError, match=r"expected a float32 parameter to hold them, got torch\.bfloat16"):
        published.apply(worker)
    assert fingerprint(adapter_arrays(worker)) == before


def test_the_fingerprint_is_read_from_the_module(published, worker):
    """Two parameters in the same memory cannot hold what each of them was sent."""
    parameters = adapter_parameters(worker)
    one, *_, other = [p for name, p in parameters.items() if ".lora_B." in name]
    assert one.shape == other.shape
    other.data = one.data
    with pytest.raises(WeightError, match="after copying, the modules hold"):
        published.apply(worker)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_never_published(published, worker, value):
    name, parameter = list(adapter_parameters(worker).items())[3]
    with torch.no_grad():
        parameter[0, 1] = value
    with pytest.raises(WeightError, match=f"Version 2 cannot be published: {name} holds values that are not finite"):
        WeightVersion.capture(worker, 2)


def test_captured_weights_are_the_adapter_itself_until_they_are_copied(worker):
    captured = WeightVersion.capture(worker, 1)
    copied = captured.copied()
    parameter = next(iter(adapter_parameters(worker).values()))
    with torch.no_grad():
        parameter.add_(1)
    assert fingerprint(captured.arrays) != captured.fingerprint == copied.fingerprint == fingerprint(copied.arrays)


def test_nothing_is_published_without_an_active_adapter(tiny_kontext):
    transformer = load(tiny_kontext)
    with pytest.raises(WeightError, match="nothing to publish"):
        WeightVersion.capture(transformer, 0)
    attach_lora(transformer, rank=2, alpha=4, seed=0)
    with pytest.raises(WeightError, match="nothing to publish"), without_adapter(transformer):
        WeightVersion.capture(transformer, 0)


def test_fingerprint_sees_names_shapes_dtypes_and_bytes():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    base = fingerprint({"a": array, "b": array})
    assert fingerprint({"b": array.copy(), "a": np.asfortranarray(array)}) == base
    variants = (
        {"a": array},
        {"a": array, "c": array},
        {"a": array, "b": array.reshape(3, 2)},
        {"a": array, "b": array.view(np.int32)},
        {"a": array, "b": -array},
        {"a": array, "b": array + np.float32(1e-6)},
    )
    assert len({fingerprint(v) for v in variants} | {base}) == 1 + len(variants)
    # Zero and minus zero are equal numbers, but not the same bits.
    assert fingerprint({"a": np.zeros(1, np.float32)}) != fingerprint({"a": -np.zeros(1, np.float32)})
