"""A training run on the scores of real vLLM servers that it starts itself on Ray, one of which is killed in the middle.

Started as a user starts it, as a process of its own, so that what it leaves behind can be seen from outside.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from learner.state.event_log import read_events
from rewards.vllm import guard
from tests.vllm.conftest import judges

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
KILL_AFTER = 2
LIMIT = 1500.0  # seconds for the whole run on two slow cores


@pytest.fixture(scope="module")
def settings(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    (folder / "run.yaml").write_text(
        json.dumps(
            {  # which is YAML too
                "name": "judged",
                "folder": str(folder / "runs"),
                "data": {"type": "shapes", "train_tasks": 16, "held_out_tasks": 2},
                "sampler": {"group_size": 3, "steps": 4, "evaluation_steps": 4},
                "algorithm": {"type": "rc_grpo", "trained_steps": [0, 1], "anchors": 1},
                "rewards": {
                    "weights": {"editscore": 1.0, "qwen_vl": 1.0, "background_psnr": 0.1},
                    "judge": judges(checkpoints, replicas=2),
                },
                "learner": {"steps": STEPS, "groups_per_step": 2},
                "cluster": {"mode": "ray", "rollout_workers": 1},
                "checkpoint": {"every": 100},
                "report": {"gallery_tasks": 0, "gallery_groups": 0},
            }
        )
    )
    return folder / "run.yaml", folder / "runs" / "judged"


def test_a_run_outlives_a_killed_judge_and_leaves_nothing(settings, row):
    config, folder = settings
    begin, seen, killed = time.monotonic(), set(), []
    with (folder.parent.parent / "output").open("w+") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "learner.main", "--config", str(config)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LOCUS_JUDGE_API_KEY": "only-for-this-test"},
        )
        try:
            while run.poll() is None:
                assert time.monotonic() - begin < LIMIT, "the run takes too long"
                seen |= {*psutil.Process(run.pid).children(recursive=True)}
                events = happened(folder)
                if not killed and steps(events) >= KILL_AFTER:
                    victim = next(
                        e
                        for e in events
                        if e["event"] == "judge_server_started" and e["replica"] == 0 and e["judge"] == "editscore"
                    )
                    group = os.getpgid(victim["pid"])
                    killed = [one for one in seen if one.is_running() and os.getpgid(one.pid) == group]
                    names = {one.name() for one in killed}
                    assert group != os.getpgid(run.pid) and any("EngineCore" in name for name in names), names
                    os.killpg(group, signal.SIGKILL)
                    assert ended(killed)
                time.sleep(0.5)
        finally:
            run.kill()
            run.wait()
            output.seek(0)
            print(output.read())
    assert run.returncode == 0 and killed
    events = happened(folder)
    lost = [e for e in events if e["event"] == "judge_server_lost"]
    started = [e for e in events if e["event"] == "judge_server_started"]
    assert [(e["judge"], e["replica"], e["pid"]) for e in lost] == [("editscore", 0, victim["pid"])]
    before = events.index(lost[0])
    assert steps(events[:before]) < STEPS and steps(events) == STEPS  # it went on
    back = [e for e in started if e["seq"] > lost[0]["seq"]]
    assert [(e["judge"], e["replica"]) for e in back] == [("editscore", 0)] and back[0]["url"] != victim["url"]
    assert steps(events[: events.index(back[0])]) < STEPS  # it came back while there was work

    counters = json.loads((folder / "summary.json").read_text())["counters"]
    assert counters["trained"] == 2 * STEPS and counters["in_flight"] == 0
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judge = {
        name.removeprefix("judge/"): value
        for line in metrics
        for name, value in line.items()
        if name.startswith("judge/")
    }
    assert judge["editscore_retries"] > 0  # requests were under way at the killed server
    for event in started[:3]:
        row(f"start {event['judge']} {event['replica']} of 3", event["seconds"])
    for name in ("editscore", "qwen_vl"):
        row(f"training, {STEPS} steps, {name}", time.monotonic() - begin, name, judge)
    row("replaced after kill -9 of its group", back[0]["time"] - lost[0]["time"])

    logs = list((folder / "judges").glob("*.log"))
    assert len(logs) == 4 and all(guard.writers(log) == set() for log in logs)
    assert len(seen) > 30 and ended(seen)  # every process that was ever below the run


def ended(processes):
    """Whether all of them end in time."""
    _, left = psutil.wait_procs([one for one in processes if one.is_running()], timeout=30)
    return not left


def happened(folder):
    return list(read_events(folder / "events.jsonl"))


def steps(events):
    return sum(event["event"] == "step" for event in events)
