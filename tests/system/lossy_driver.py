"""A run whose driver loses calls and replies; `test_lost_replies.py` starts this in an environment of its own, because
Ray reads what it shall lose only once.

    RAY_testing_rpc_failure=... python -m tests.system.lossy_driver EDITOR FOLDER

The learner works in the driver here: a lost call to it would end the run, and most calls are to it. A lost call to the
pool does, too; then the run is resumed. Prints a JSON line at the end: how its lives ended, the last one with an empty
text.
"""

import json
import sys
from pathlib import Path

import ray

import learner.backends.ray
from cluster.runtime import connect
from configs.schema import ClusterConfig
from learner.backends.learner_group import LearnerGroup
from learner.backends.learner_host import LearnerHost
from learner.errors import RunFailed
from learner.run import run
from learner.state.event_log import read_events
from tests.learner.tiny_run import tiny_run

STEPS, GROUPS, MOST_LIVES = 5, 4, 25


class Call:
    """A method of an object of this process, called as an actor's is."""

    def __init__(self, method, returns=1):
        self._method, self._returns = method, returns

    def options(self, num_returns):
        return Call(self._method, num_returns)

    def remote(self, *arguments):
        result = self._method(*(ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in arguments))
        return [ray.put(one) for one in result] if self._returns > 1 else ray.put(result)


class Here:
    """Looks like the handle of an actor."""

    def __init__(self, worker):
        self._worker = worker

    def __getattr__(self, name):
        return Call(getattr(self._worker, name))


class LearnerHere(LearnerGroup):
    """A learner that no call can be lost to."""

    @classmethod
    def open(cls, config, folder, tasks):
        return cls(config, [Here(LearnerHost(config, folder, tasks=ray.get(tasks)))])

    def close(self):
        """There is no process to end."""


def driven(editor: Path, folder: Path) -> list[str]:
    """Until the run is done and a group was lost; how each life ended."""
    learner.backends.ray.LearnerGroup = LearnerHere
    ends, steps = list[str](), STEPS
    # One Ray for all lives: its start takes longer than all else.
    with connect(ClusterConfig()):
        while len(ends) < MOST_LIVES:
            config = tiny_run(
                editor,
                folder,
                "run",
                {
                    "learner": {"steps": steps, "groups_per_step": GROUPS},
                    "data": {"held_out_tasks": 1},
                    "checkpoint": {"every": 1},
                    "report": {"gallery_groups": 0, "gallery_tasks": 0},
                    "cluster": {"mode": "ray", "max_attempts": 20, "max_restarts": 20},
                },
            )
            try:
                run(config, resume=(folder / "run" / "config.yaml").exists())
            except RunFailed as error:
                ends.append(str(error))
                continue
            ends.append("")
            if any(event["event"] == "requeued" for event in read_events(folder / "run" / "events.jsonl")):
                break
            steps += STEPS
    return ends


if __name__ == "__main__":
    print(json.dumps(driven(Path(sys.argv[1]), Path(sys.argv[2]))))
