"""`make chaos`: soak test of a whole run on Ray: a fault every few seconds, then an audit of its event log.

    python -m tests.chaos --seed 7 --seconds 300

Rollout workers, judges, the score cache, the learner, the reward pool and the driver are killed, and the number of
workers is changed, in an order and at times that follow from the seed. The run is resumed whenever its process has
ended, and finished in peace. Exit code 0 when every promise was kept, 1 otherwise; then the folder with all that was
said is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from configs import exits
from learner.quiet import quiet_libraries
from tests.chaos.broken import Broken
from tests.chaos.family import adopt_orphans, left_over
from tests.chaos.run import STALLED, Run
from tests.chaos.servers import Servers
from tests.chaos.verdict import broken_promises, tables
from tests.chaos.victims import Round

BETWEEN = (1.5, 6.0)
"""Seconds from one fault to the next."""
LAST_STEPS = 5
"""Steps of the undisturbed end."""
ENDING = 30.0
"""Seconds that processes have to end by themselves."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(2**31), help="of faults and times (default: drawn)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        help="of inject_faults, from the first step (default: 300); longer where not everything has happened yet",
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(exits.TERMINATED))  # by way of `finally`
    quiet_libraries()
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="locus-chaos-"))
    print(f"seed {options.seed}, {options.seconds:g} s, in {folder}", flush=True)
    faults = Round(random.Random(options.seed))
    broken: list[str] = []
    run: Run | None = None
    try:
        with Servers(folder) as servers:
            run = Run(folder, servers, options.seed)
            run.start()
            inject_faults(run, servers, faults, random.Random(options.seed + 1), options.seconds)
            finish(run, servers)
    except Broken as error:
        broken.append(str(error))
    finally:
        left = left_over(ENDING)
    if not broken and run is not None:
        broken = broken_promises(run, faults.struck, left)
        tables(run, faults.struck)
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    if broken:
        print(f"seed {options.seed}: {len(broken)} promises were broken; everything that was said is in {folder}")
        return 1
    shutil.rmtree(folder)
    print(f"seed {options.seed}: every promise was kept, {len(faults.struck)} faults")
    return 0


def inject_faults(run: Run, servers: Servers, faults: Round, draw: random.Random, seconds: float) -> None:
    """Injects faults for so long, from the first step on, and until every kind was injected."""
    while not run.works():
        tend(run, servers)
        time.sleep(0.2)
    end, next_at = time.monotonic() + seconds, 0.0
    while time.monotonic() < end or not faults.everything_was_struck():
        tend(run, servers)
        if time.monotonic() >= next_at:
            struck = faults.strike(run, servers)
            if struck is not None:
                told = f"{seconds - (end - time.monotonic()):5.0f} s   {struck.kind}"
                print(f"{told} ({struck.what or 'server'})", flush=True)
                next_at = time.monotonic() + draw.uniform(*BETWEEN)
        time.sleep(0.1)


def tend(run: Run, servers: Servers) -> None:
    """Restarts what is due: the run at once, servers after their downtime."""
    if run.ended() is not None:
        run.start()
    servers.tend(len(run.lives), run.steps_made())


def finish(run: Run, servers: Servers) -> None:
    """Asks the run to stop, as a preempted machine does, and has it finish a few steps later."""
    until = run.steps_made() + 3  # what was done last is noticed
    while run.steps_made() < until or not run.works():
        tend(run, servers)
        time.sleep(0.2)
    run.life.process.terminate()
    run.wait([exits.TERMINATED], 60.0)
    run.start("--learner.steps", str(run.steps_saved() + LAST_STEPS))
    tend(run, servers)
    run.wait([exits.DONE], STALLED)


if __name__ == "__main__":
    sys.exit(main())
