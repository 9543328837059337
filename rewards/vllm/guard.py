"""Runs a judge server, which is a tree of processes, and makes sure that none of them outlives its owner.

    python -I -S guard.py OWNER GRACE COMMAND [ARGUMENT ...]

A process of its own between the owner (who started it and holds the other end of its standard input) and the server,
with the standard library only and one thread. There are two, the second (OWNER 0: whoever started it) as the command of
the first, because Ray kills the direct children of a process that ends in disorder. Whoever is killed, the rest goes:

    the owner            its end of the pipe closes; the first guard ends the tree
    and the first guard  the second one sees that and ends the tree
    the second guard     the kernel kills the server; its orphans become children of the first guard, which ends them
    both guards          the kernel kills the server, and the owner ends what is left (`end_writers`)
    the server           its orphans become children of the second guard, not of init; the guard ends them
    all at once          when they share a process group, as they do: a guard starts no session and no group

vLLM's engine does not notice that its server was killed, and a left-over engine keeps its GPU: hence all this.
Linux only. Why the score cache's server has another guard is said there (`rewards.cache.guard`).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>
LOOK_EVERY = 0.2  # seconds
AFTERMATH = 1.0  # seconds for what the server leaves: its resource tracker unlinks shared memory
KILLED_WITHIN = 30.0  # seconds that the kernel gets for processes that were killed
LEFT_SOMETHING = 99  # exit code: processes did not go although they were killed


def guard(owner: int, grace: float, command: list[str]) -> int:
    """Returns the server's exit code (128 + n for signal n), once nothing of its tree is left."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, 0)  # a guard that started this one asked for it; but then there is work to do
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    asked_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, which closes the pipe when it is done
    watched, pause = (owner, _pipe_closed) if owner else (os.getppid(), _pause)
    server = _start(command, libc)
    ended: dict[int, int] = {}
    while server not in ended and not asked_to_end and os.getppid() == watched and not pause():
        ended |= _reaped()
    if server not in ended:
        os.kill(server, signal.SIGTERM)
        _wait(grace, ended, lambda: server in ended)
    _wait(AFTERMATH, ended, lambda: not descendants(os.getpid()))
    if not _kill(lambda: descendants(os.getpid()), ended):
        return LEFT_SOMETHING
    status = ended[server] if server in ended else os.waitpid(server, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def guarded(owner: int, grace: float, command: list[str]) -> list[str]:
    """The command that runs `command` under two guards for a process; it needs a pipe as its standard input."""
    one = [sys.executable, "-I", "-S", __file__]
    outer = 2 * grace + AFTERMATH + KILLED_WITHIN  # what the inner one may need, and more
    return [*one, str(owner), str(outer), *one, "0", str(grace), *command]


def _wait(seconds: float, ended: dict[int, int], done: Callable[[], bool]) -> None:
    """Reaps into `ended` until it is done or the time is over."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY / 4)
        ended |= _reaped()


def descendants(root: int) -> set[int]:
    """Every living process below `root`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            living, parent = _living_and_parent(entry)
            if living:
                parents[int(entry.name)] = parent
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= new
    return found


def writers(log: Path) -> set[int]:
    """Every living process whose standard output or error is this file.

    A server's tree inherits them, through new sessions, renamed processes and dead parents.
    """
    if not log.exists():
        return set()
    wanted = os.stat(log)
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for number in (1, 2):
            try:
                if os.path.samestat(os.stat(entry / "fd" / str(number)), wanted):
                    found.add(int(entry.name))
            except OSError:  # gone, a zombie, or another user's
                continue
    return found


def end_writers(log: Path) -> bool:
    """Kills everything that `writers` finds, and all below it; whether all of it is gone."""

    def left() -> set[int]:
        roots = writers(log)
        return roots | {pid for root in roots for pid in descendants(root)}

    return _kill(left)


def _kill(left: Callable[[], set[int]], ended: dict[int, int] | None = None) -> bool:
    """Kills until there is nothing left; reaps into `ended` where the dead are children of this process."""
    deadline = time.monotonic() + KILLED_WITHIN
    while found := left():
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(LOOK_EVERY / 10)
        if ended is not None:
            ended |= _reaped()
        if time.monotonic() > deadline:
            return False
    return True


def _start(command: list[str], libc: ctypes.CDLL) -> int:
    guard_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:  # only one thread, so everything is safe between fork and exec
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard_pid:
            os._exit(0)  # the guard was killed before the kernel knew that we want to go with it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # processes of a Ray block requests to stop
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _pipe_closed() -> bool:
    """Waits a moment for the owner to let go; it writes nothing."""
    return bool(select.select([0], [], [], LOOK_EVERY)[0]) and not os.read(0, 4096)


def _pause() -> bool:
    time.sleep(LOOK_EVERY)
    return False


def _reaped() -> dict[int, int]:
    """Exit status by process, of every child that has ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _living_and_parent(entry: Path) -> tuple[bool, int]:
    """Whether anything of a process still runs, and its parent."""
    try:
        fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything
    except OSError:  # it is gone
        return False, 0
    state, parent, threads = fields[0], int(fields[1]), int(fields[17])
    # A process whose first thread is dead already still holds its memory until the others are.
    return state not in (b"Z", b"X") or threads > 1, parent


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
