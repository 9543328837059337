"""The guard by itself, without the owner's help: what of a server's tree goes when which part is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rewards.vllm import guard
from tests.rewards.vllm.conftest import alive, gone_within, tree_pids


@pytest.fixture
def guarded(stand_in, tmp_path):
    """`start(behaviour)`: guards over a stand-in server; the first, and the pids of the second, the server, its engine
    and its worker."""
    started = []

    def start(behaviour="good"):
        config = stand_in(behaviour)
        command = guard.guarded(
            os.getpid(), 1.0, [config.python, "--host", "127.0.0.1", "--port", "0", *config.arguments]
        )
        with (tmp_path / "server.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        started.append(process)
        pids = tree_pids(tmp_path / "pids")
        (second,) = guard.descendants(process.pid) - set(pids)
        return process, [second, *pids]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("behaviour", ["good", "stubborn"])
@pytest.mark.parametrize("victim", ["second guard", "server"])
def test_the_orphans_of_a_killed_part_go_with_it(guarded, victim, behaviour):
    process, pids = guarded(behaviour)
    os.kill(pids[0 if victim == "second guard" else 1], signal.SIGKILL)
    assert process.wait(30) == 128 + 9
    assert not any(map(alive, pids))  # and by the time that the guard ends, not some time after


@pytest.mark.parametrize("behaviour", ["good", "stubborn"])
def test_the_second_guard_replaces_the_first(guarded, behaviour):
    process, pids = guarded(behaviour)
    process.kill()
    assert process.wait(30) == -9
    assert gone_within(pids)


@pytest.mark.parametrize("how", ["pipe", "signal"])
@pytest.mark.parametrize("behaviour", ["good", "stubborn"])
def test_who_lets_go_ends_the_tree(guarded, behaviour, how):
    process, pids = guarded(behaviour)
    if how == "pipe":
        process.stdin.close()
    else:
        process.terminate()
    assert process.wait(30) == 128 + 15
    assert not any(map(alive, pids))


def test_the_kernel_ends_the_server_of_killed_guards(guarded):
    process, pids = guarded()
    os.kill(process.pid, signal.SIGSTOP)  # or it would clean up before it is killed
    os.kill(pids[0], signal.SIGKILL)
    process.kill()
    assert process.wait(30) == -9
    assert gone_within(pids[:2])
    assert alive(pids[2]) and alive(pids[3])  # these are what the owner is needed for


def test_a_guard_of_somebody_else_ends_at_once(stand_in, tmp_path):
    config = stand_in()
    process = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            guard.__file__,
            str(os.getpid() + 1),
            "1.0",
            config.python,
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ],
        stdin=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert process.returncode in (128 + 15, 128 + 9)  # asked so early, it may not have heard


@pytest.mark.parametrize(("command", "code"), [(["/no/such/program"], 127), ([sys.executable, "-c", "exit(7)"], 7)])
def test_the_servers_exit_code_is_passed_on(command, code):
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), "1.0", *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.wait(60) == code
    assert (b"/no/such/program: No such file" in process.communicate()[1]) == (code == 127)


def test_writers_are_those_whose_output_is_the_file(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        mine = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file)
    with log.open("rb") as file:  # reading it, as `tail` does, is not writing
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file.fileno()])
    try:
        deadline = time.monotonic() + 30
        while guard.writers(log) != {mine.pid} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert guard.writers(log) == {mine.pid}
        assert {mine.pid, other.pid} <= guard.descendants(os.getpid())
        assert guard.end_writers(log) and mine.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()
