"""Requests to stop at real processes; two drivers on one run; logs on a full disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from configs import exits
from learner.audit import audited
from learner.shutdown import Stopping, Terminated
from learner.state.event_log import EventLog, read_events
from tests.descendants import descendants
from tests.learner.tiny_run import tiny_run

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
LONG = {
    "learner": {"steps": 200},
    "data": {"held_out_tasks": 1},
    "checkpoint": {"every": 100},
    "report": {"gallery_tasks": 0, "gallery_groups": 0},
}


def command(config, *flags) -> list[str]:
    """The training command for a configuration, through a file."""
    file = Path(config.folder) / "asked.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return [sys.executable, "-m", "learner.main", "--config", str(file), *flags]


def start(config, *flags) -> subprocess.Popen:
    return subprocess.Popen(
        command(config, *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def seen(config, event: str) -> int:
    path = Path(config.folder) / config.name / "events.jsonl"
    return sum(line["event"] == event for line in read_events(path))


def wait_for(config, process, event: str, count: int) -> None:
    deadline = time.monotonic() + 300
    while seen(config, event) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_saved(process, folder):
    """Waits for the end: the run says how to go on, and has saved what it had done."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == exits.TERMINATED, said
    assert f"--config {folder}/config.yaml --resume" in said
    events = list(read_events(folder / "events.jsonl"))
    done = max(e["step"] for e in events if e["event"] == "step")
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [0, done]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_lost_terminal_and_a_batch_system_ask_as_well(tiny_kontext, tmp_path, number):
    config = tiny_run(tiny_kontext, tmp_path, "run", LONG)
    before = signal.signal(number, signal.SIG_DFL)  # children inherit what is ignored, as under `nohup`
    try:
        process = start(config)
    finally:
        signal.signal(number, before)
    wait_for(config, process, "step", 2)
    process.send_signal(number)
    check_saved(process, tmp_path / "run")


@pytest.mark.ray
@pytest.mark.slow
def test_a_request_to_every_process_of_a_run_on_ray_is_one_to_the_driver(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "run", {**LONG, "cluster": {"mode": "ray", "rollout_workers": 1}})
    process = start(config)
    wait_for(config, process, "step", 2)
    tree = [psutil.Process(process.pid), *descendants(of=process.pid)]
    names = {one.name() for one in tree}
    assert len(tree) > 5 and {"raylet", "gcs_server"} <= names
    for one in reversed(tree):  # the driver last, so that the others are not ended by it
        one.send_signal(signal.SIGTERM)
    check_saved(process, tmp_path / "run")
    _, left = psutil.wait_procs(tree[1:], timeout=60)
    assert left == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_whose_raylet_is_killed_says_so_at_once(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "run", {**LONG, "cluster": {"mode": "ray", "rollout_workers": 1}})
    process = start(config)
    wait_for(config, process, "step", 2)
    tree = descendants(of=process.pid)
    (raylet,) = (one for one in tree if one.name() == "raylet")
    agents = [one for one in tree if one.name().endswith("Agent")]  # they try for a minute to tell Ray's dead server
    raylet.kill()
    said, errors = process.communicate(timeout=120)
    assert process.returncode == exits.RESUMABLE, errors
    command = f"python -m learner.main --config {tmp_path}/run/config.yaml --resume"
    assert said.rstrip().endswith(command) and "Traceback" not in errors
    last = list(read_events(tmp_path / "run" / "events.jsonl"))[-1]
    assert last["event"] == "failed" and last["reason"].endswith(command)
    _, left = psutil.wait_procs([one for one in tree if one not in agents], timeout=60)
    assert left == [] and len(tree) > len(agents) + 3


@pytest.mark.slow
def test_a_driver_that_is_asked_to_end_saves_first_and_says_how_to_go_on(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "run", LONG)
    process = start(config)
    wait_for(config, process, "step", 2)
    # Meanwhile a second driver is refused, and says who is there.
    second = subprocess.run(command(config, "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == exits.RESUMABLE
    assert f"is in use by another process (pid {process.pid} on " in second.stderr
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == exits.TERMINATED, said
    assert f"--config {tmp_path}/run/config.yaml --resume" in said
    events = list(read_events(tmp_path / "run" / "events.jsonl"))
    saved = [e["step"] for e in events if e["event"] == "checkpoint"]
    done = max(e["step"] for e in events if e["event"] == "step")
    assert saved == [0, done] and events[-1]["error"] == "Terminated"

    # A driver that is killed leaves a lock that blocks no one; Ctrl-C is like SIGTERM.
    process = start(config, "--resume")
    wait_for(config, process, "step", done + 1)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process = start(config, "--resume")
    wait_for(config, process, "resumed", 2)
    wait_for(config, process, "step", done + 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == exits.INTERRUPTED and "--resume" in said, said
    result = audited(tmp_path / "run" / "events.jsonl")
    assert not any(result.faults.values()), result.faults


def test_a_driver_whose_reader_is_gone_trains_on_and_saves_when_it_is_asked_to_end(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "run", LONG)
    read, write = os.pipe()
    process = subprocess.Popen(command(config), cwd=ROOT, stdout=write, stderr=write)
    os.close(write)
    os.close(read)  # before the first line, so that every one of them meets a broken pipe
    wait_for(config, process, "step", 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == exits.INTERRUPTED
    events = list(read_events(tmp_path / "run" / "events.jsonl"))
    done = max(e["step"] for e in events if e["event"] == "step")
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [0, done]


def asked(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)


@pytest.fixture
def stopping():
    before = {number: signal.getsignal(number) for number in (*exits.STOP_SIGNALS, signal.SIGALRM)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    one = Stopping()
    one.install()
    yield one
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", exits.STOP_SIGNALS)
def test_a_request_is_raised_at_once_where_nothing_can_be_saved(stopping, number):
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated):
        asked(number)


def test_a_hangup_that_is_ignored_stays_ignored(stopping):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` has it
    Stopping().install()
    asked(signal.SIGHUP)


def test_a_request_waits_for_a_good_moment(stopping):
    reached = False
    with pytest.raises(Terminated), stopping.deferred():
        asked(signal.SIGTERM)
        reached = True
    assert reached and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_request_waits_for_a_good_moment_where_nobody_reads_what_is_said():
    """In a process of its own: standard error is a pipe that is full."""
    code = """
import os, signal
from learner.shutdown import Stopping, Terminated
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while os.write(write, bytes(4096)):
        pass
except BlockingIOError:
    os.set_blocking(write, True)
os.dup2(write, 2)
stopping = Stopping()
stopping.install()
try:
    with stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        print("went on", stopping.requested is not None, flush=True)
except Terminated:
    print("stopped", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.stdout == "went on True\nstopped\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_request_does_not_wait(stopping, number, monkeypatch):
    monkeypatch.setattr("learner.shutdown.AGAIN_SECONDS", 0.0)
    reached = False
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        asked(signal.SIGTERM)
        asked(number)
        reached = True
    assert not reached


@pytest.mark.parametrize(
    ("numbers", "seconds"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 60.0),  # `timeout` sends to the command and to its group
        ((signal.SIGTERM, signal.SIGHUP), 0.0),
        ((signal.SIGHUP, signal.SIGHUP), 0.0),
    ],
)
def test_what_is_sent_twice_by_machines_is_one_request(stopping, numbers, seconds, monkeypatch):
    monkeypatch.setattr("learner.shutdown.AGAIN_SECONDS", seconds)
    reached = False
    with pytest.raises(Terminated), stopping.deferred():
        for number in numbers:
            asked(number)
        reached = True
    assert reached


def test_a_request_does_not_wait_for_ever(stopping, monkeypatch):
    monkeypatch.setattr("learner.shutdown.GRACE_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        asked(signal.SIGINT)
        time.sleep(60)
        pytest.fail("nothing was raised")


def test_a_diary_on_a_full_disk_is_said_and_stops_nothing(tmp_path, capsys):
    with EventLog(tmp_path / "events.jsonl") as log:
        log._file.close()
        log._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 (the log closes it)
        for step in range(3):
            log.write("finished", step=step)
    said = capsys.readouterr()
    assert (said.out + said.err).count("events_not_written") == 1 and "No space left" in said.out + said.err


def test_lines_that_the_disk_refused_follow_when_it_takes_them(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from learner.state.event_log import EventLog
log = EventLog(Path(sys.argv[1]))
log.write("finished", step=0)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))   # a part of a line fits
log.write("finished", step=1)
log.write("finished", step=2)
assert Path(sys.argv[1]).stat().st_size == size + 20
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.write("finished", step=3)
log.close()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "e")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [e["step"] for e in read_events(tmp_path / "e")] == [0, 1, 2, 3]
    assert "events_not_written" in done.stdout + done.stderr and "events_written_again" in done.stdout + done.stderr
