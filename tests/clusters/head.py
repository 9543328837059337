"""A real Ray head, started as `cluster/local.yaml` says, and what is asked of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from cluster.doctor.exposure import is_rays
from tests.cluster.manifests import NO_METRICS

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8265"
DEADLINE = 240.0


def environment(**changes: str) -> dict[str, str]:
    """This environment with our own commands first, and without what would name another Ray."""
    ours = tuple(setting.partition("=")[0] for setting in NO_METRICS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", *ours))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", **changes}


def run(*command: str, check: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """A finished command, started where a user of the cluster might be: anywhere."""
    # Files and not pipes: `ray start` leaves processes behind that would hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(
            command,
            cwd="/",
            env=environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=2 * DEADLINE,
        ).returncode
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(command, code, out.read(), err.read())
    assert not check or code == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def wait_for(what: Callable[[], object], said: str) -> None:
    """Until `what` is true, at most DEADLINE seconds."""
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for {said}"
        time.sleep(0.05)


def start(mode: str = "token", metrics: bool = False, **changes: str) -> None:
    """Starts a head with the shipped file's own commands; another mode is edited into them, and metrics.

    `changes` are variables of its environment.
    """
    shipped = yaml.safe_load((ROOT / "cluster/local.yaml").read_text())
    for command in shipped["head_start_ray_commands"]:
        typed = command.replace("~/locus", str(ROOT)).replace("source .venv/bin/activate", "true")
        typed = typed.replace("RAY_AUTH_MODE=token", f"RAY_AUTH_MODE={mode}")
        for setting in NO_METRICS if metrics else ():
            typed = typed.replace(setting, "")
        if run("bash", "-c", typed, check=False, **changes).returncode:
            # Ray gives its processes half a minute to come up, which is not always enough on a busy machine.
            run("ray", "stop", "--force")
            run("bash", "-c", typed, **changes)


def servers() -> list[psutil.Process]:
    """The servers of all heads that are up."""
    return [
        one
        for one in psutil.process_iter(["name", "status"])
        if one.info["name"] == "gcs_server" and one.info["status"] != psutil.STATUS_ZOMBIE
    ]


def gcs() -> psutil.Process | None:
    """The head's own server; None when there is none."""
    return next(iter(servers()), None)


def kill() -> None:
    """Kills every process of the head at once, as a machine that dies does; jobs' drivers are left."""
    assert gcs() is not None
    clear()


def clear() -> None:
    """Kills what there is of a head."""
    found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_rays(process)]
    for process in found:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, timeout=30)


def _is_rays(process: psutil.Process) -> bool:
    try:
        return is_rays(process.name(), process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
