"""The spool: what goes in comes out, every byte verified; what is not needed or not sound goes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from editing.trajectory import Lease, TrajectoryGroup
from learner.state.spool import Spool, SpoolError, read_spooled, recover
from rewards.result import GroupScores, Score

HASH = "c" * 64


def made(step=3, slot=1, version=3, attempt=0, acd=True, config_hash=HASH) -> TrajectoryGroup:
    rng = np.random.default_rng(step * 10 + slot)
    return TrajectoryGroup(
        Lease(step, slot, 4, attempt, 2**62 + slot, version),
        "täsk",
        version,
        config_hash,
        "0a1b",
        np.linspace(1, 0, 4, dtype=np.float32),
        (0, 2),
        np.array([1, 3]),
        rng.normal(size=(2, 4, 6, 5)).astype(np.float32),
        rng.normal(size=(2, 2, 6, 5)).astype(np.float32),
        rng.integers(0, 256, (4, 8, 9, 3), np.uint8),
        rng.random(4).astype(np.float32) if acd else None,
        0.1 + 0.2,
    )


def scored(group: TrajectoryGroup) -> GroupScores:
    row = (Score(value=1 / 3, passes=(0.1, 0.2)), Score(error="no", reason="unavailable"), Score(0.0), Score(-1e-300))
    return GroupScores(group.lease.group_id, group.policy_version, {"one": row, "two": row[::-1]}, 1.5, {"three": row})


def put(folder: Path, group: TrajectoryGroup, place=0) -> Path:
    assert Spool(folder).write(group, scored(group), place) > 0
    return folder / "spool" / f"{group.lease.group_id}.safetensors"


def same(one: TrajectoryGroup, two: TrajectoryGroup) -> bool:
    for name, value in vars(one).items():
        other = getattr(two, name)
        if isinstance(value, np.ndarray):
            if value.dtype != other.dtype or not np.array_equal(value, other):
                return False
        elif value != other:
            return False
    return True


@pytest.mark.parametrize("acd", [True, False])
def test_a_group_comes_back_as_it_was(tmp_path, acd):
    group = made(acd=acd)
    path = put(tmp_path, group, place=5)
    one = read_spooled(path, HASH)
    assert same(one.load(), group) and one.scores == scored(group)
    assert (one.place, one.lease, one.task_id, one.seconds) == (5, group.lease, "täsk", 0.1 + 0.2)
    # A plain safetensors file, aligned as the format wants it.
    assert set(safetensors.numpy.load_file(path)) >= {"candidates", "images"}
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_arrays_that_are_views_are_written_by_value(tmp_path):
    group = made()
    turned = replace(group, candidates=np.asfortranarray(group.candidates), images=group.images[:, ::-1])
    assert same(read_spooled(put(tmp_path, turned), HASH).load(), turned)


def test_a_group_that_is_there_already_is_left_as_it_is(tmp_path):
    path = put(tmp_path, made())
    before = path.stat().st_mtime_ns
    assert Spool(tmp_path).write(made(), scored(made()), 0) is None and path.stat().st_mtime_ns == before


def test_every_flipped_or_missing_byte_is_noticed(tmp_path):
    path = put(tmp_path, made())
    content = path.read_bytes()
    for where in [*range(0, len(content), 7), len(content) - 1]:
        for damaged in (content[:where], content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]):
            path.write_bytes(damaged)
            try:
                one = read_spooled(path, HASH)
            except SpoolError as error:
                assert str(path) in str(error)
            else:  # a space of the header's padding
                assert same(one.load(), made()) and one.scores == scored(made())


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
        (lambda path: path.rename(path.with_name("000003.002.0.safetensors")), "it holds group 000003.001.0"),
        (lambda path: safetensors.numpy.save_file({"x": np.zeros(2)}, path), "cannot be read: KeyError"),
    ],
)
def test_what_is_not_sound_is_refused_by_name_and_removed(tmp_path, spoil, why):
    spoil(put(tmp_path, made()))
    put(tmp_path, made(slot=0))
    (path,) = [p for p in (tmp_path / "spool").iterdir() if p.name != "000003.000.0.safetensors"]
    taken, refused = recover(tmp_path, 3, HASH, 2)
    assert [one.lease.slot for one in taken] == [0] and not path.exists()
    assert len(refused) == 1 and refused[0].startswith(f"spool file {path} is refused: ") and why in refused[0]


def test_a_group_of_another_configuration_is_refused(tmp_path):
    put(tmp_path, made(config_hash="d" * 64))
    taken, refused = recover(tmp_path, 3, HASH, 2)
    assert taken == () and "made under configuration dddddddddddd, this run is cccccccccccc" in refused[0]


def test_what_a_checkpoint_holds_goes(tmp_path):
    for step in (1, 2, 3):
        put(tmp_path, made(step=step, version=1))
    (tmp_path / "spool" / "000009.000.0.partial").write_bytes(b"x")
    Spool(tmp_path).drop(2)
    assert sorted(p.name[:6] for p in (tmp_path / "spool").glob("*.safetensors")) == ["000002", "000003"]
    taken, refused = recover(tmp_path, 3, HASH, 2)
    assert [one.lease.step for one in taken] == [3] and refused == ()
    assert len(list((tmp_path / "spool").iterdir())) == 1


def test_groups_come_back_in_the_order_in_which_they_were_taken(tmp_path):
    for place, slot in enumerate([2, 0, 1]):
        put(tmp_path, made(step=4, slot=slot), place)
    put(tmp_path, made(step=3, slot=0))
    taken, _ = recover(tmp_path, 3, HASH, 3)
    assert [(one.lease.step, one.lease.slot) for one in taken] == [(3, 0), (4, 2), (4, 0), (4, 1)]


@given(st.sets(st.tuples(st.integers(2, 5), st.integers(0, 1))), st.integers(0, 2))
def test_a_group_is_taken_only_if_the_version_that_made_it_comes_back(tmp_path_factory, present, age):
    folder = tmp_path_factory.mktemp("run")
    for step, slot in present:
        put(folder, made(step=step, slot=slot, version=max(0, step - age)), slot)
    taken, refused = recover(folder, 2, HASH, 2)
    kept = {(one.lease.step, one.lease.slot) for one in taken}
    assert len(kept) + len(refused) == len(present)
    for step, slot in present:
        needed = {(s, n) for s in range(2, max(0, step - age)) for n in (0, 1)}
        assert ((step, slot) in kept) == (needed <= kept)


def test_a_slot_is_taken_once(tmp_path):
    put(tmp_path, made(attempt=0))
    put(tmp_path, made(attempt=1), place=1)
    taken, refused = recover(tmp_path, 3, HASH, 2)
    assert [one.lease.attempt for one in taken] == [0] and "slot 1 of step 3 is there twice" in refused[0]


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    code = (
        "import resource, sys; from learner.state.spool import Spool\n"
        "from tests.learner.state.test_spool import made, scored\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        "try: Spool(sys.argv[1]).write(made(), scored(made()), 0)\n"
        "except OSError as error: print(error.errno)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout.strip() == "27" and list((tmp_path / "spool").iterdir()) == []  # EFBIG


def test_a_group_that_cannot_be_used_is_set_aside(tmp_path):
    put(tmp_path, made())
    Spool(tmp_path).set_aside("000003.001.0")
    Spool(tmp_path).set_aside("000003.001.0")
    assert recover(tmp_path, 3, HASH, 2) == ((), ())
    assert [p.name for p in (tmp_path / "faulty").iterdir()] == ["000003.001.0.safetensors"]
