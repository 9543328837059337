"""Messages check themselves: a group whose parts do not fit is never made."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.trajectory import Lease, MessageError, TrajectoryGroup, derive_seed


def a_group() -> TrajectoryGroup:
    """Four candidates of 6 tokens with 2 channels, two trained steps, two anchors."""
    rng = np.random.default_rng(0)
    return TrajectoryGroup(
        lease=Lease(step=3, slot=1, task_index=5, attempt=0, seed=7, policy_version=3),
        task_id="t",
        policy_version=3,
        config_hash="0" * 64,
        noise="",
        sigmas=np.array([1, 0.5, 0.25, 0], np.float32),
        kept_steps=(0, 1),
        anchors=np.array([1, 3]),
        candidates=rng.normal(size=(2, 4, 6, 2)).astype(np.float32),
        predecessors=rng.normal(size=(2, 2, 6, 2)).astype(np.float32),
        images=np.zeros((4, 8, 8, 3), np.uint8),
        acd=np.ones(4, np.float32),
        seconds=0.1,
    )


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def test_a_whole_group_is_taken_with_and_without_attention():
    assert a_group().group_size == 4
    assert replace(a_group(), acd=None).acd is None


def of_images(group: TrajectoryGroup, **over) -> TrajectoryGroup:
    """The last states of a group, as given images have them."""
    nobody = {"anchors": np.array([], np.int64), "predecessors": group.predecessors[:1, :0]}
    return replace(group, **{"noise": None, "kept_steps": (1,), "candidates": group.candidates[1:], **nobody, **over})


def test_given_images_have_no_noise_and_no_anchors():
    assert of_images(a_group()).is_given and not a_group().is_given
    with pytest.raises(MessageError, match="anchors: expected distinct candidates"):
        of_images(a_group(), noise="0" * 32)
    with pytest.raises(MessageError, match="anchors: expected distinct candidates"):
        replace(a_group(), noise=None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda g: {"candidates": g.candidates[:1]}, r"candidates: expected \[2, G, N, C\], got \(1, 4, 6, 2\)"),
        (lambda g: {"candidates": g.candidates[0]}, r"candidates: expected \[2, G, N, C\], got \(4, 6, 2\)"),
        (
            lambda g: {"predecessors": g.predecessors[:, :1]},
            r"predecessors: expected \(2, 2, 6, 2\), got \(2, 1, 6, 2\)",
        ),
        (lambda g: {"images": g.images[:3]}, r"images: expected uint8 \[4, H, W, 3\], got uint8 \(3, 8, 8, 3\)"),
        (lambda g: {"images": g.images.astype(np.float32)}, "images: expected uint8 .* got float32"),
        (lambda g: {"acd": g.acd[:3]}, r"acd: expected \[4\], got \(3,\)"),
        (lambda g: {"anchors": np.array([2, 2])}, r"distinct .* got \[2, 2\]"),
        (lambda g: {"anchors": np.array([1, 4])}, r"in 0..3, got \[1, 4\]"),
        (lambda g: {"anchors": np.array([-1, 1])}, r"in 0..3, got \[-1, 1\]"),
        (lambda g: {"anchors": np.array([], np.int64), "predecessors": g.predecessors[:, :0]}, r"in 0..3, got \[\]"),
        (lambda g: {"candidates": with_value(g.candidates, np.nan)}, "latents contain NaN or infinity"),
        (lambda g: {"predecessors": with_value(g.predecessors, np.inf)}, "latents contain NaN or infinity"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(change, sentence):
    group = a_group()
    with pytest.raises(MessageError, match=rf"^group 000003\.001\.0: .*{sentence}"):
        replace(group, **change(group))


@given(parts=st.lists(st.integers(0, 10**6) | st.text(max_size=5), min_size=1, max_size=4))
def test_seeds_have_63_bits_and_depend_on_every_part(parts):
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63 and seed == derive_seed(*parts)
    assert seed != derive_seed(*parts, 0) and seed != derive_seed("x", *parts)
