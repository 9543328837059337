"""A run whose driver loses calls and replies; `test_lost_replies.py` starts this in an environment of its own, because
Ray reads what it shall lose only once.

    RAY_testing_rpc_failure=... python -m tests.system.lossy_driver EDITOR FOLDER

The run is resumed as often as it takes: a lost call to the learner or the pool ends it. Prints a JSON line at the end:
how its lives ended, the last one with an empty text.
"""

import json
import sys
from pathlib import Path

from cluster.runtime import connect
from configs.schema import ClusterConfig
from learner.backend import RunFailed
from learner.events import read_events
from learner.train import run
from tests.learner.tiny_run import tiny_run

STEPS, MORE_STEPS, GROUPS, MOST_LIVES = 4, 4, 4, 25


def driven(editor: Path, folder: Path) -> list[str]:
    """Until the run is done and a worker's group was lost; how each life ended."""
    ends, steps = list[str](), STEPS
    # One Ray for all lives: its start takes longer than all else.
    with connect(ClusterConfig()):
        while len(ends) < MOST_LIVES:
            config = tiny_run(editor, folder, "run", {
                "learner": {"steps": steps, "groups_per_step": GROUPS}, "data": {"held_out_tasks": 1},
                "checkpoint": {"every": 1}, "report": {"gallery_groups": 0, "gallery_tasks": 0},
                "cluster": {"mode": "ray", "max_attempts": 20, "max_restarts": 20, "group_timeout": 600.0}})
            try:
                run(config, resume=(folder / "run" / "config.yaml").exists())
            except RunFailed as error:
                ends.append(str(error))
                continue
            ends.append("")
            if any(event["event"] == "requeued" for event in read_events(folder / "run" / "events.jsonl")):
                break
            steps += MORE_STEPS
    return ends


if __name__ == "__main__":
    print(json.dumps(driven(Path(sys.argv[1]), Path(sys.argv[2]))))
