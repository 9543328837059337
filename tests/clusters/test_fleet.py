"""The fleet on clusters whose nodes come and go: added, killed with work in hand, and started by an autoscaler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from learner.audit import audited
from learner.state.event_log import read_events

HERE = Path(__file__).resolve().parent


def driven(what: str, editor: Path, folder: Path) -> tuple[list[int], dict[str, list[dict]]]:
    """The number of nodes after each step, and the run's events by kind.

    In namespaces within ours: starting Ray's cluster for autoscaling tests ends every Ray that it sees.
    """
    home = folder / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE.parents[1]),
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }  # else workers give way to all else on the machine
    environment.pop("RAY_ADDRESS", None)
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            [
                str(HERE / "isolated.sh"),
                sys.executable,
                "-m",
                "tests.clusters.fleet_driver",
                what,
                str(editor),
                str(folder),
            ],
            cwd=HERE.parents[1],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(900.0)
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else ():
                child.kill()  # the first process of the namespaces, and with it all others
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text[-6000:]
    events: dict[str, list[dict]] = {}
    for event in read_events(folder / "run" / "events.jsonl"):
        events.setdefault(event["event"], []).append(event)
    faults = audited(folder / "run" / "events.jsonl").faults
    assert not any(faults.values()), faults
    return json.loads(text.splitlines()[-1]), events


def test_workers_fill_nodes_that_join_and_a_node_that_dies_costs_the_group_in_its_hands(tiny_kontext, tmp_path):
    counts, events = driven("nodes", tiny_kontext, tmp_path)
    assert max(counts) == 2 and counts[-1] == 2
    started, lost = events["worker_started"], events["worker_lost"]
    assert started[0]["seq"] < events["step"][0]["seq"] < started[1]["seq"]  # the second node came after the first step
    # One that had come up; Ray may also have sent its successor to the node before it knew of the node's death.
    (victim,) = [event for event in lost if event["pid"] is not None]
    assert len(started) == 3 and victim["pid"] == started[0]["pid"] and victim["jobs"] == 1
    (again,) = events["requeued"]
    assert again["group"].startswith("000003.") and again["group"].endswith(".0")
    assert again["group"][:-1] + "1" in {event["group"] for event in events["trained"]}
    assert events["finished"]


def test_an_autoscaler_follows_a_fleet_from_one_worker_to_four_and_back_to_two(tiny_kontext, tmp_path):
    counts, events = driven("autoscaler", tiny_kontext, tmp_path)
    assert [(event["before"], event["after"]) for event in events["fleet_resized"]] == [(1, 4), (4, 2)]
    assert (counts[0], counts[1], counts[4]) == (1, 4, 2)
    assert len(events["worker_started"]) == 4 and len(events["worker_drained"]) == 2
    assert "worker_lost" not in events and "requeued" not in events and events["finished"]
    makers = [
        {event["pid"] for event in events["generated"] if event["group"].startswith(f"{step:06d}")} for step in range(5)
    ]
    assert len(makers[0]) == 1 and len(makers[1]) > 1 and len(makers[4]) <= 2
