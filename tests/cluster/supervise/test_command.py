"""The command: what it rejects before it contacts a cluster, and how Ray's responses read."""

from collections.abc import Iterator

import pytest

from cluster.supervise.__main__ import main
from cluster.supervise.jobs import JobRefused, RayJobs, Unreachable
from cluster.supervise.policy import Ended
from configs import exits
from tests.cluster.web import Answers, serving


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "rdp"], "Expected -- and then the flags of the run"),
        (["--", "--learner.stepz", "3"], "did you mean learner.steps?"),
        (["--", "--learner.steps", "3"], "folder: expected an absolute path on storage"),
        (["--", "--folder", "/tmp/r", "--resume"], "expected neither; every attempt checks"),
        (["--address", "127.0.0.1:6379", "--", "--folder", "/tmp/r"], "--address: expected the dashboard's address"),
        (["--", "--folder", "/tmp/r", "--editor.path", "hf_" + "aB3" * 11], "looks like an access token"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_code_2(capsys, monkeypatch, arguments, sentence):
    monkeypatch.setattr("cluster.supervise.__main__.use_token", lambda: None)
    monkeypatch.setattr("cluster.supervise.__main__.Supervisor", None)
    assert main(arguments) == exits.WRONG_REQUEST
    assert sentence in capsys.readouterr().err


@pytest.fixture
def dashboard(monkeypatch) -> Iterator[Answers]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")  # an address that is given comes first
    with serving() as board:
        board.responses["/api/version"] = (200, {"ray_version": "2.60.0", "version": "4"})
        yield board


def details(**fields) -> dict[str, object]:
    return {"type": "SUBMISSION", "entrypoint": "train", "submission_id": "r-1", "status": "FAILED", **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "PENDING"}, "PENDING"),
        ({"status": "RUNNING"}, "RUNNING"),
        (
            {"status": "SUCCEEDED", "driver_exit_code": 0, "message": "Job finished successfully."},
            Ended(0, "Job finished successfully."),
        ),
        ({"status": "STOPPED", "message": "stopped"}, Ended(None, "stopped", stopped=True)),
        (
            {
                "driver_exit_code": 75,
                "message": "exit code 75, last available logs (truncated to 20,000 chars):\nsecrets",
            },
            Ended(75, "exit code 75"),
        ),
        ({"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "node died"}, Ended(None, "node died")),
        ({"error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "no zip"}, Ended(exits.FAILED, "no zip")),
    ],
)
def test_what_ray_says_of_a_job(dashboard, fields, expected):
    dashboard.responses["/api/jobs/r-1"] = (200, details(**fields))
    assert RayJobs(dashboard.address, None).look("r-1") == expected


def test_unknown_jobs_and_running_ones(dashboard):
    dashboard.responses["/api/jobs/r-1"] = (404, "Job r-1 does not exist")
    dashboard.responses["/api/jobs/"] = (200, [details(), details(status="RUNNING", submission_id="r-2")])
    jobs = RayJobs(dashboard.address, None)
    assert jobs.look("r-1") is None and jobs.running() == {"r-1": False, "r-2": True}


def test_a_job_is_submitted_without_environment_variables(dashboard):
    dashboard.responses["/api/jobs/"] = (200, {"job_id": "r-1", "submission_id": "r-1"})
    RayJobs(dashboard.address, None).submit("r-1", "train --x 1")
    *_, body = next(entry for entry in dashboard.seen if entry[0] == "POST")
    assert body["submission_id"] == "r-1" and body["entrypoint"] == "train --x 1" and body["runtime_env"] == {}


def test_a_silent_server_is_waited_for_and_a_refusing_one_is_not(dashboard):
    with pytest.raises(Unreachable, match="does not respond"):
        RayJobs("http://127.0.0.1:9", None).running()
    dashboard.responses["/api/jobs/"] = (503, "starting up")
    with pytest.raises(Unreachable, match="responds with a server error"):
        RayJobs(dashboard.address, None).running()
    dashboard.responses["/api/jobs/"] = (401, "Unauthorized")
    with pytest.raises(JobRefused, match="a different token"):
        RayJobs(dashboard.address, None).running()
    dashboard.responses["/api/jobs/"] = (500, "ValueError: Job with submission_id r-1 already exists.")
    with pytest.raises(JobRefused, match="already exists"):
        RayJobs(dashboard.address, None).submit("r-1", "train")
