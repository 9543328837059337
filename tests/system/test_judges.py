"""Whole runs on judge scores: overlap, servers that die, and judges that are all gone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs import exits
from configs.load import to_yaml
from configs.schema import RunConfig
from learner.errors import RunFailed
from learner.run import run
from learner.state.checkpoint import load_latest
from learner.state.event_log import read_events
from tests.judges.processes import ScriptedProcess
from tests.judges.scripted import ScriptedServer
from tests.learner.adapters import same_adapter
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

ROOT = Path(__file__).parents[2]
RAY = [pytest.mark.ray, pytest.mark.slow]
MODES = ["inline", pytest.param("ray", marks=[*RAY, pytest.mark.fault])]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Each test without Ray and, where the faults are tested, with it."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return request.param


@pytest.fixture
def two_judges(tmp_path: Path) -> Iterator[tuple[ScriptedProcess, ScriptedProcess]]:
    with (
        ScriptedProcess(tmp_path / "one.jsonl", "slow:0.05") as one,
        ScriptedProcess(tmp_path / "two.jsonl", "slow:0.05") as two,
    ):
        yield one, two


def judged(
    editor: Path, folder: Path, name: str, mode: str, *urls: str, limits: Mapping[str, Any] = {}, **overrides
) -> RunConfig:
    """A tiny run on the scores of one judge, which asks no more than it must and gives up soon."""
    return tiny_run(
        editor,
        folder,
        name,
        {
            "rewards": {
                "weights": {"editscore": 1.0, "background_psnr": 0.5},
                "judge": {
                    "editscore": {"urls": list(urls), "passes": 1},
                    "patience": 5.0,
                    "attempts": 3,
                    "max_unanswered": 2,
                    **limits,
                },
            },
            "data": {"held_out_tasks": 1},
            "cluster": {"mode": mode},
            "checkpoint": {"every": 100},
            "report": {"gallery_tasks": 0, "gallery_groups": 0},
            **overrides,
        },
    )


def events_of(folder: Path, name: str) -> list[dict]:
    return list(read_events(folder / name / "events.jsonl"))


def meeting(given) -> list[float]:
    """A scorer that says nothing before four groups wait for it, each in a process of the same pool."""
    folder = Path(tempfile.gettempdir()) / f"meeting-{os.getppid()}"
    for stage in ("here", "gone"):
        folder.mkdir(exist_ok=True)
        (folder / f"{stage}-{os.getpid()}").touch()
        while stage == "here" and len(list(folder.glob("here-*"))) < 4:
            time.sleep(0.05)
    if len(list(folder.glob("gone-*"))) == 4:
        shutil.rmtree(folder, ignore_errors=True)
    return [0.0] * len(given.images)


@pytest.mark.parametrize("mode", ["inline", pytest.param("ray", marks=RAY)], indirect=True)
def test_groups_are_rolled_out_while_others_wait_for_their_scores(mode, tiny_kontext, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCUS_JUDGE_API_KEY", "set after Ray was started")
    watcher = Watcher()
    with ScriptedServer() as judge:
        run(
            judged(
                tiny_kontext,
                tmp_path,
                "overlap",
                mode,
                judge.url,
                rewards={
                    "weights": {"editscore": 1.0, "meeting": 1.0},
                    "scorers": {"meeting": "tests.system.test_judges:meeting"},
                    "scorer_processes": 4,
                    "scorer_deadline": 120.0,
                    "judge": {"editscore": {"urls": [judge.url], "passes": 1}},
                },
                learner={"steps": 1, "groups_per_step": 4},
                # One worker with one group: the next one only begins when the one before is rolled out.
                cluster={"mode": mode, "rollout_workers": 1, "groups_in_flight": 1},
            ),
            observers=[watcher],
        )
        assert judge.served("good") == 24
        assert {asked.authorization for asked in judge.log} == {"Bearer set after Ray was started"}
    events = events_of(tmp_path, "overlap")
    when = {kind: {e["group"]: e["seq"] for e in events if e["event"] == kind} for kind in ("generated", "scored")}
    assert len(when["generated"]) == len(when["scored"]) == 4
    for group, following in pairwise(sorted(when["generated"])):
        assert when["generated"][following] < when["scored"][group]
    # At staleness 0 groups are trained on in order all the same.
    assert [group.lease.slot for group in watcher.groups] == [0, 1, 2, 3]
    (step,) = watcher.steps
    assert step.judge["editscore_answered"] == 24 and step.judge["editscore_error_rate"] == 0
    assert [n for n in watcher.notices if "responded to a test image" in n] == [
        "judge editscore: 1 server responded to a test image"
    ]
    assert {"judges_awaited", "judge_ready"} <= {e["event"] for e in events}


class Killer(Watcher):
    """Kills judge servers when the first group of the third step is taken."""

    def __init__(self, *victims: ScriptedProcess) -> None:
        super().__init__()
        self.victims = list(victims)

    def on_group(self, record):
        super().on_group(record)
        if record.step == 2:
            while self.victims:
                self.victims.pop().kill()


def test_a_killed_judge_server_changes_no_result(mode, two_judges, tiny_kontext, tmp_path):
    one, two = two_judges
    with ScriptedServer() as judge:
        run(judged(tiny_kontext, tmp_path, "whole", "inline", judge.url))
    watcher = Killer(two)
    summary = run(judged(tiny_kontext, tmp_path, "killed", mode, one.url, two.url), observers=[watcher])
    assert summary["counters"]["trained"] == 8 and summary["counters"]["rejected"] == 0
    # The server had answered requests, and was missed.
    assert [asked for asked in two.log if not asked["probe"]] and not watcher.victims
    last = watcher.steps[-1].judge
    assert last["editscore_in_rotation"] == 1 and last["editscore_unanswered"] == 0
    troubles = [e for e in events_of(tmp_path, "killed") if e["event"] == "judge_trouble"]
    assert troubles[0]["judge"] == "editscore" and troubles[0]["servers"] == 1
    assert any("1 server in rotation" in notice for notice in watcher.notices)
    assert same_adapter(tmp_path / "whole", tmp_path / "killed")


def stops_and_goes_on(
    mode: str, editor: Path, folder: Path, watcher: Watcher, *urls: str, limits: Mapping[str, Any] = {}
) -> str:
    """The sentence with which a run on these servers stops; with its state saved, so that it ends elsewhere as if
    nothing had happened."""
    with ScriptedServer() as sound:
        run(judged(editor, folder, "whole", "inline", sound.url))
        with pytest.raises(RunFailed) as stopped:
            run(judged(editor, folder, "stopped", mode, *urls, limits=limits), observers=[watcher])
        sentence, done = str(stopped.value), len(watcher.steps)
        # Saved up to the last step that was done, although no checkpoint was due.
        checkpoint, refused = load_latest(folder / "stopped" / "checkpoints")
        assert checkpoint is not None and not refused and 2 <= checkpoint.step == done < 4
        assert f"saved up to step {done} in {checkpoint.path}; continue it with --resume" in sentence
        assert events_of(folder, "stopped")[-1]["event"] == "failed"
        summary = run(judged(editor, folder, "stopped", "inline", sound.url), resume=True)
    assert summary["first_step"] == done and same_adapter(folder / "whole", folder / "stopped")
    return sentence


def test_a_run_whose_judges_are_gone_stops_and_goes_on_elsewhere_as_if_nothing_had_happened(
    mode, two_judges, tiny_kontext, tmp_path
):
    one, two = two_judges
    watcher = Killer(one, two)
    sentence = stops_and_goes_on(mode, tiny_kontext, tmp_path, watcher, one.url, two.url)
    # Two groups are scored at a time on Ray: whichever of them is heard first has counted its own request too.
    assert re.search(r"[2-6] requests in a row got no response \(rewards.judge.max_unanswered is 2\)", sentence)
    assert one.url in sentence and not watcher.victims


def test_a_run_whose_judge_talks_nonsense_stops_and_goes_on_elsewhere_as_if_nothing_had_happened(
    mode, tiny_kontext, tmp_path
):
    # Two steps of two groups of three candidates, two requests each, and a part of the third step.
    with ScriptedServer(["good"] * 27 + ["garbage"]) as judge:
        sentence = stops_and_goes_on(
            mode, tiny_kontext, tmp_path, Watcher(), judge.url, limits={"max_bad_answers": 0.02}
        )
        assert judge.served("good") == 27 and judge.served("garbage") >= 5
    assert re.search(
        r"[5-9] of the last \d+ responses had no score, more than 2% of 200 \(.*max_bad_answers\)", sentence
    )
    assert "Is this the right model?" in sentence and "I like this picture" in sentence


def test_a_judge_server_of_the_runs_own_is_replaced_and_gone_at_the_end(mode, tiny_kontext, tmp_path):
    stand_in, asked = tmp_path / "python", tmp_path / "asked.jsonl"  # in place of vLLM's interpreter
    stand_in.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.judges.scripted import main\n"
        f"sys.argv = ['scripted', '--port', sys.argv[sys.argv.index('--port') + 1], '--log', {str(asked)!r}]\nmain()\n"
    )
    stand_in.chmod(0o755)
    serve = {"replicas": 1, "path": str(tmp_path), "python": str(stand_in), "gpus": 0, "start_timeout": 120}

    def told(what: str) -> list[dict]:
        return [e for e in events_of(tmp_path, "served") if e["event"] == f"judge_server_{what}"]

    class KillerOfTheServer(Watcher):
        def on_step(self, record):
            super().on_step(record)
            if record.step == 2:
                os.kill(told("started")[0]["pid"], signal.SIGKILL)

    watcher = KillerOfTheServer()
    run(
        judged(
            tiny_kontext,
            tmp_path,
            "served",
            mode,
            rewards={
                "weights": {"editscore": 1.0, "background_psnr": 0.5},
                "judge": {"editscore": {"serve": serve, "passes": 1}, "patience": 60.0},
            },
        ),
        observers=[watcher],
    )
    # The run waited for the second server, and went on.
    (first, second), (lost,) = told("started"), told("lost")
    assert lost["pid"] == first["pid"] and first["url"] != second["url"] and len(watcher.steps) == 4
    assert not psutil.pid_exists(first["pid"]) and not psutil.pid_exists(second["pid"])
    assert watcher.steps[-1].judge["editscore_unanswered"] == 0 and len(asked.read_text().splitlines()) >= 48
    assert any("server 0 is lost" in notice for notice in watcher.notices)


@pytest.mark.slow
def test_the_default_job_trains_on_judge_scores_where_a_judge_is_configured(mode, tmp_path):
    with ScriptedServer() as judge:
        said = subprocess.run(
            [
                sys.executable,
                "-m",
                "learner.main",
                "--folder",
                str(tmp_path),
                "--cluster.mode",
                mode,
                "--rewards.judge.editscore.urls",
                f'["{judge.url}"]',
                "--rewards.judge.editscore.passes",
                "1",
                "--learner.steps",
                "2",
                "--learner.groups_per_step",
                "2",
                "--data.held_out_tasks",
                "2",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert said.returncode == 0, said.stderr
        assert judge.served("good") == 2 * 2 * 8 * 2  # steps, groups, candidates, requests
    steps = [line for line in said.stdout.splitlines() if line.startswith("step ")]
    assert len(steps) == 2 and all("editscore 0." in line and "errors 0.0%" in line for line in steps)
    metrics = [json.loads(line) for line in (tmp_path / "quickstart" / "metrics.jsonl").read_text().splitlines()]
    found = next(line for line in reversed(metrics) if line["kind"] == "step")
    assert {"reward/editscore", "reward/background_psnr", "judge/editscore_p95_seconds", "judge/cache_misses"} <= set(
        found
    ) and found["judge/editscore_answered"] == 64
    assert "reward/edit_score" not in found  # nothing of the ground truth


@pytest.mark.fault
def test_the_command_says_where_a_stopped_run_is_saved_and_what_to_type_to_go_on(tiny_kontext, tmp_path):
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "learner.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500
        )

    with ScriptedServer(["good"] * 12 + ["500"]) as judge:  # two groups of three candidates, then no more
        config = judged(tiny_kontext, tmp_path, "typed", "inline", judge.url)
        (tmp_path / "typed.yaml").write_text(to_yaml(config))
        stopped = command("--config", str(tmp_path / "typed.yaml"), "--name", "typed")
        checkpoint, _ = load_latest(tmp_path / "typed" / "checkpoints")
        assert stopped.returncode == exits.RESUMABLE and judge.served("500")
        assert checkpoint is not None and checkpoint.step == 1
        assert f"saved up to step 1 in {checkpoint.path}" in stopped.stderr and "500" in stopped.stderr
        (again,) = [line for line in stopped.stderr.splitlines() if "python -m learner.main" in line]
        judge.play("good")
        done = command(*again.partition("python -m learner.main ")[2].split())
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "typed" / "summary.json").read_text())["first_step"] == 1


def test_judges_that_never_respond_end_the_run_before_it_begins(mode, tiny_kontext, tmp_path):
    with ScriptedServer(probes="500") as judge:
        with pytest.raises(RunFailed, match=r"editscore: 1 of 1 servers did not respond to a test image\. .*500"):
            run(judged(tiny_kontext, tmp_path, "never", mode, judge.url))
        assert judge.probes
    assert not [e for e in events_of(tmp_path, "never") if e["event"] in ("leased", "checkpoint")]


def test_a_scorer_that_is_not_there_is_a_sentence(mode, tmp_path):
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "learner.main",
            "--folder",
            str(tmp_path),
            "--cluster.mode",
            mode,
            "--rewards.scorers.mine",
            "no.such:scorer",
            "--rewards.weights.mine",
            "1",
            "--data.held_out_tasks",
            "0",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert said.returncode == exits.FAILED and "Traceback" not in said.stderr
    assert "rewards.scorers.mine: no.such cannot be imported (ModuleNotFoundError" in said.stderr
