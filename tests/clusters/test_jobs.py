"""Jobs on a real head with the token: the default one to its end, and supervised ones that are killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus

from learner.state.event_log import read_events
from tests.clusters import head as heads
from tests.clusters.head import ADDRESS, environment, run, wait_for
from tests.learner.adapters import ADAPTER, same_adapter

SHORT = [
    "--learner.steps",
    "8",
    "--learner.groups_per_step",
    "2",
    "--data.held_out_tasks",
    "2",
    "--checkpoint.every",
    "1",
    "--report.gallery_tasks",
    "0",
    "--report.gallery_groups",
    "0",
]


def jobs() -> dict[str, tuple[JobStatus, int | None]]:
    """Status and exit code of every job that the head knows."""
    code = (
        "import json; from ray.job_submission import JobSubmissionClient as C; "
        f"print(json.dumps([[j.submission_id, j.status, j.driver_exit_code] for j in C({ADDRESS!r}).list_jobs()]))"
    )
    listed = json.loads(run(sys.executable, "-c", code, RAY_AUTH_MODE="token").stdout.splitlines()[-1])
    return {name: (JobStatus(status), code) for name, status, code in listed if name}


def trained(folder: Path, steps: int = 8) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text())
    counters = summary["counters"]
    assert summary["steps"] == steps and counters["in_flight"] == 0
    assert counters["leased"] == counters["trained"] + counters["rejected"] + counters["requeued"]
    return summary


@pytest.fixture(scope="module")
def whole(token_head, tmp_path_factory) -> Path:
    """The default job, shortened, submitted with Ray's own command: its run folder."""
    folder = tmp_path_factory.mktemp("runs")
    done = run(
        "ray",
        "job",
        "submit",
        "--submission-id",
        "whole",
        "--",
        "python",
        "-m",
        "learner.main",
        "--folder",
        str(folder),
        "--name",
        "whole",
        *SHORT,
        RAY_ADDRESS=ADDRESS,
        RAY_AUTH_MODE="token",
    )
    assert "succeeded" in done.stdout + done.stderr
    return folder / "whole"


def test_the_default_job_runs_to_its_end_on_the_shipped_head(whole):
    assert jobs()["whole"] == (JobStatus.SUCCEEDED, 0)
    assert trained(whole)["counters"]["trained"] == 16 and (whole / ADAPTER).exists()
    # It joined the head's Ray instead of starting one beside it.
    assert len(heads.servers()) == 1


def supervised(folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cluster.supervise",
            "--address",
            ADDRESS,
            "--first-delay",
            "1",
            "--",
            "--folder",
            str(folder),
            "--name",
            name,
            *SHORT,
        ],
        cwd=heads.ROOT,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def driver_of(folder: Path) -> psutil.Process:
    """The process that holds the run; only when it has saved two steps and is not done."""
    wait_for(lambda: (folder / "checkpoints/step_000002").exists(), f"two steps in {folder}")
    process = psutil.Process(int((folder / ".lock").read_text().split()[1]))
    assert "learner.main" in process.cmdline() and not (folder / "summary.json").exists()
    return process


def test_a_supervised_run_whose_driver_is_killed_ends_with_the_same_adapter(whole, tmp_path):
    supervisor = supervised(tmp_path, "killed")
    driver_of(tmp_path / "killed").send_signal(signal.SIGKILL)
    said, _ = supervisor.communicate(timeout=2 * heads.DEADLINE)
    assert supervisor.returncode == 0, said
    assert "killed-2 submitted" in said and said.strip().endswith("The run is done.")
    known = jobs()
    assert known["killed-1"][0] == JobStatus.FAILED and known["killed-1"][1] in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert known["killed-2"] == (JobStatus.SUCCEEDED, 0)
    assert trained(tmp_path / "killed")["first_step"] >= 2
    assert next(e["step"] for e in read_events(tmp_path / "killed/events.jsonl") if e["event"] == "resumed") >= 2
    assert same_adapter(tmp_path / "killed", whole)


def test_a_run_whose_cluster_is_lost_goes_on_in_the_next_one(whole, tmp_path):
    supervisor = supervised(tmp_path, "lost")
    driver_of(tmp_path / "lost")
    heads.kill()
    heads.start()
    said, _ = supervisor.communicate(timeout=3 * heads.DEADLINE)
    assert supervisor.returncode == 0, said
    assert "does not respond" in said and "its own cluster was lost" in said
    assert "lost-1" in jobs() and "whole" not in jobs()  # another cluster
    assert trained(tmp_path / "lost")["first_step"] >= 2
    assert same_adapter(tmp_path / "lost", whole)


@pytest.mark.parametrize("shown", ["", "0" * 64])
def test_without_the_token_there_is_no_job(token_head, tmp_path, shown):
    without = (
        {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
        if not shown
        else {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": shown}
    )
    done = run(
        "ray",
        "job",
        "submit",
        "--submission-id",
        f"refused{len(shown)}",
        "--",
        "python",
        "-m",
        "learner.main",
        "--folder",
        str(tmp_path),
        *SHORT,
        check=False,
        RAY_ADDRESS=ADDRESS,
        **without,
    )
    assert done.returncode != 0 and "uthenticat" in done.stdout + done.stderr
    done = run(
        sys.executable,
        "-m",
        "cluster.supervise",
        "--address",
        ADDRESS,
        "--",
        "--folder",
        str(tmp_path),
        *SHORT,
        check=False,
        **without,
    )
    assert done.returncode == 2 and "requires a different token" in done.stderr
    assert not [name for name in jobs() if name.startswith(("refused", "quickstart"))]
    assert not any(tmp_path.glob("*/config.yaml"))


def test_a_run_that_needs_a_person_is_not_repeated_and_tells_no_secret(token_head, tmp_path):
    """The flags are right here, but not where the job runs: what the configuration names is not there."""
    done = run(
        sys.executable,
        "-m",
        "cluster.supervise",
        "--address",
        ADDRESS,
        "--",
        "--folder",
        str(tmp_path),
        "--name",
        "wrong",
        "--editor.path",
        str(tmp_path / "none"),
        check=False,
    )
    assert done.returncode == 1 and "which is not retryable" in done.stdout
    assert [name for name in jobs() if name.startswith("wrong")] == ["wrong-1"]
    secret = (Path(os.environ["HOME"]) / ".ray/auth_token").read_text().strip()
    request = urllib.request.Request(f"{ADDRESS}/api/jobs/", headers={"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request) as response:
        told = response.read().decode()
    assert "wrong-1" in told and secret not in told and secret not in done.stdout + done.stderr
