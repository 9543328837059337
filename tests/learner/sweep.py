"""All fault points of `tests.learner.test_kill`, and ten kills in a row: minutes, so not part of `make test`.

    python -m pytest tests/learner/sweep.py
"""

import os
import random

import pytest

from learner.audit import audited
from learner.events import read_events
from tests.learner.nursery import Point
from tests.learner.test_kill import (  # noqa: F401 (fixtures)
    EVENT,
    POINTS,
    config,
    killed_and_resumed,
    nursery,
    sha,
    unbroken,
)


@pytest.mark.parametrize("name", POINTS)
def test_a_run_that_was_killed_ends_with_the_same_bytes(
        name, nursery, unbroken, tiny_kontext, tmp_path, capsys):  # noqa: F811
    killed_and_resumed(name, nursery, unbroken, tiny_kontext, tmp_path, capsys)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(nursery, unbroken, tiny_kontext, tmp_path):  # noqa: F811
    """At ten points drawn at random; the seed is printed where it fails."""
    seed = int(os.environ.get("LOCUS_TEST_SEED", "0")) or random.randrange(1, 2**31)
    draw, settings, deaths, ended = random.Random(seed), config(tiny_kontext, tmp_path), 0, None
    for attempt in range(40):
        wanted = deaths < 10
        point = Point(EVENT, draw.randrange(2, 18), after=draw.random() < 0.5) if wanted else None
        ended = nursery.run(settings, resume=attempt > 0, point=point)
        deaths += ended.code == -9
        assert ended.code in (0, -9), (seed, ended.said)
        if ended.code == 0 and not wanted:
            break
    assert ended.code == 0 and deaths >= 10 and sha(tmp_path) == unbroken, seed
    faults = audited(read_events(tmp_path / "run" / "events.jsonl")).faults
    assert not any(faults.values()), (seed, faults)
