"""Ten kills in a row on Ray, of the driver or of the learner, at any time: `make test-kills`, for it takes minutes.

LOCUS_TEST_SEED repeats a drawn one; its seed is printed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from configs import exits
from configs.load import to_yaml
from learner.run import run
from learner.state.event_log import read_events
from tests.descendants import descendants
from tests.learner.sweep import KILLS, kept, seed
from tests.learner.tiny_run import tiny_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault]

ROOT = Path(__file__).parents[2]
STEPS = 40
WORKS, STARTS = 3.0, 20.0
"""Seconds within which a process is killed after it has published weights, or (one in five) after it was started."""
LONGEST_LIFE = 600.0
OVER = {"data": {"held_out_tasks": 1}, "report": {"gallery_tasks": 0, "gallery_groups": 0}, "learner": {"steps": STEPS}}


@dataclass
class Life:
    """One process of the run, and what happens to it."""

    folder: Path
    process: subprocess.Popen[bytes]
    began: float

    def told(self, *kinds: str) -> bool:
        return any(
            event["event"] in kinds and event["time"] >= self.began
            for event in read_events(self.folder / "run" / "events.jsonl")
        )

    def learner(self) -> psutil.Process | None:
        """Ray's processes are children of this one, which started Ray."""
        return next((one for one in descendants("ray::LearnerHost") if one.create_time() > self.began), None)

    def ends(self, draw: random.Random, strike: bool) -> tuple[int, str]:
        """The exit code, and who was killed."""
        starting, victim = draw.random() < 0.2, draw.choice(["driver", "learner"])
        at = draw.uniform(0, STARTS if starting else WORKS)
        since, struck, limit = None, "", time.monotonic() + LONGEST_LIFE
        while self.process.poll() is None:
            assert time.monotonic() < limit, (self.folder / "said.txt").read_text()[-4000:]
            if since is None and (starting or self.told("published")):
                since = time.monotonic()
            if strike and not struck and since is not None and time.monotonic() - since > at:
                target = psutil.Process(self.process.pid) if victim == "driver" else self.learner()
                if target is not None:
                    target.send_signal(signal.SIGKILL)
                    struck = victim
            time.sleep(0.05)
        return self.process.returncode, struck


def test_a_run_on_ray_that_is_killed_again_and_again_ends_with_the_same_bytes(
    ray_cluster, seed, tiny_kontext, tmp_path, capsys
):
    import ray

    run(tiny_run(tiny_kontext, tmp_path / "whole", "run", OVER))
    (tmp_path / "killed").mkdir()
    config, folder = tmp_path / "killed" / "asked.yaml", tmp_path / "killed"
    config.write_text(
        to_yaml(
            tiny_run(
                tiny_kontext,
                folder,
                "run",
                {
                    **OVER,
                    "cluster": {
                        "mode": "ray",
                        "address": ray.get_runtime_context().gcs_address,
                        "group_timeout": LONGEST_LIFE,
                    },
                },
            )
        )
    )
    draw, deaths, ended = random.Random(seed), list[str](), None
    while ended != exits.DONE or len(deaths) < KILLS:
        with (folder / "said.txt").open("wb") as said:
            life = Life(
                folder,
                subprocess.Popen(
                    [sys.executable, "-m", "cluster.resume_or_start", "--", "--config", str(config)],
                    cwd=ROOT,
                    stdout=said,
                    stderr=said,
                    env={**os.environ, "RAY_AUTH_MODE": "token"},
                ),
                time.time(),
            )
        ended, struck = life.ends(draw, strike=len(deaths) < KILLS)
        if struck:
            deaths.append(struck)
        expected = {"driver": -signal.SIGKILL, "learner": exits.RESUMABLE, "": exits.DONE}[struck]
        assert ended == expected, (struck, ended, (folder / "said.txt").read_text()[-4000:])
    with capsys.disabled():
        print(f"\n  killed: {', '.join(deaths)}")
    kept(folder, len(deaths), hashed(tmp_path / "whole"), capsys)


def hashed(folder: Path) -> str:
    from tests.learner.test_kill import sha

    return sha(folder)
