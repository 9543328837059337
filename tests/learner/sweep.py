"""All fault points of `tests.learner.test_kill`, and ten kills in a row: `make test-kills`, for they take minutes.

LOCUS_TEST_SEED repeats a drawn one; its seed is printed.
"""

import os
import random
import shutil
import time

import pytest

from learner.audit import audited
from tests.learner.nursery import Point
from tests.learner.test_kill import (
    EVENT,
    POINTS,
    config,
    killed_and_resumed,
    nursery,
    sha,
    unbroken,
)

KILLS = 10
ATTEMPTS = 60
LONGER = {"learner": {"steps": 60}}


@pytest.mark.parametrize("name", POINTS)
def test_a_run_that_was_killed_ends_with_the_same_bytes(name, nursery, unbroken, tiny_kontext, tmp_path, capsys):
    killed_and_resumed(name, nursery, unbroken, tiny_kontext, tmp_path, capsys)


@pytest.fixture
def seed(capsys) -> int:
    drawn = int(os.environ.get("LOCUS_TEST_SEED", "0")) or random.randrange(1, 2**31)
    with capsys.disabled():
        print(f"\n  LOCUS_TEST_SEED={drawn}", flush=True)
    return drawn


def kept(folder, deaths, whole, capsys) -> None:
    """Prints what became of a run, and checks it."""
    audit = audited(folder / "run" / "events.jsonl")
    with capsys.disabled():
        print(
            f"  {deaths} kills, {audit.counts['replayed']} groups taken again from disk, {audit.counts['resumes']} "
            f"resumes\n  adapter  {sha(folder)}\n  unbroken {whole}",
            flush=True,
        )
    assert deaths >= KILLS and sha(folder) == whole
    assert audit.counts["replayed"] > 0  # the kills fell into training
    assert not any(audit.faults.values()), audit.faults


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    seed, nursery, unbroken, tiny_kontext, tmp_path, capsys
):
    """At ten points drawn at random."""
    draw, settings, deaths, ended = random.Random(seed), config(tiny_kontext, tmp_path), 0, None
    for attempt in range(ATTEMPTS):
        wanted = deaths < KILLS
        point = Point(EVENT, draw.randrange(2, 18), after=draw.random() < 0.5) if wanted else None
        ended = nursery.run(settings, resume=attempt > 0, point=point)
        deaths += ended.code == -9
        assert ended.code in (0, -9), ended.said
        if ended.code == 0 and not wanted:
            break
    kept(tmp_path, deaths, unbroken, capsys)


def test_a_run_that_is_killed_from_outside_at_any_time_ends_with_the_same_bytes(
    seed, nursery, tiny_kontext, tmp_path, capsys
):
    """At ten times drawn at random, within half of what the unbroken run takes."""
    draw, began = random.Random(seed), time.monotonic()
    ended = nursery.run(config(tiny_kontext, tmp_path / "whole", LONGER))
    whole = time.monotonic() - began
    assert ended.code == 0, ended.said
    settings, deaths = config(tiny_kontext, tmp_path / "killed", LONGER), 0
    for _ in range(ATTEMPTS):
        wanted, run = deaths < KILLS, tmp_path / "killed" / "run"
        if not (run / "config.yaml").exists():  # killed before there was anything to go on with
            shutil.rmtree(run, ignore_errors=True)
        ended = nursery.run(settings, resume=run.exists(), kill_after=draw.uniform(0, whole / 2) if wanted else None)
        deaths += ended.code == -9
        assert ended.code in (0, -9), ended.said
        if ended.code == 0 and not wanted:
            break
    kept(tmp_path / "killed", deaths, sha(tmp_path / "whole"), capsys)
