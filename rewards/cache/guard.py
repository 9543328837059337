"""Runs a server that ends when the process that wanted it ends, however that happens.

    python -I -S guard.py PARENT FOLDER COMMAND...

A process of its own, with the standard library only and one thread. The kernel's parent-death signal alone would
not do for the run itself: it follows the *thread* that started the server, not the process, and setting it between
fork and exec is not safe in a process with threads. Here there is one thread, so the server gets the signal from
this guard, and the guard watches PARENT: killed run, killed guard or killed both, the server goes.

The server reads what is on the guard's standard input, so that nothing secret is on a command line or a disk. Killed
by a signal (kill -9, out of memory) it is started again after a second; ended by itself it stays ended. FOLDER (the
server's socket and log) is removed where PARENT is no longer there to do it.

Judge servers have another guard (`rewards.vllm.guard`), since the two cannot be one: here standard input is what the
server reads, there it is a pipe whose end means that the owner is gone; here a killed server is started again, there it
ends, with a tree of processes that only Linux lets a guard find and keep. What both do alike is to ask the kernel for
the parent-death signal and to unblock signals, a few lines that each has itself: started with -I -S, a script imports
nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
LOOK_EVERY = 0.25  # seconds
RESTART_AFTER = 1.0  # seconds
GRACE = 10.0  # seconds to write its scores to disk


def guard(parent: int, folder: str, command: list[str]) -> int:
    """Returns the server's exit code, or 0 where it was ended because the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # processes of a Ray block requests to stop, and so what they start
    text = sys.stdin.buffer.read()
    server: subprocess.Popen[bytes] | None = None
    try:
        while os.getppid() == parent:
            if server is None or server.poll() is not None:
                if server is not None and server.returncode >= 0:
                    return server.returncode
                if server is not None:
                    time.sleep(RESTART_AFTER)
                server = _start(command, text)
            time.sleep(LOOK_EVERY)
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may come between here and the end
        if server is not None:
            _end(server)
        if os.getppid() != parent:  # otherwise the parent reads the log first
            shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], text: bytes) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=_die_with_this_process)
    assert server.stdin is not None
    try:
        with server.stdin:
            server.stdin.write(text)
    except BrokenPipeError:  # it ended already; the exit code tells
        pass
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(GRACE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _die_with_this_process() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
