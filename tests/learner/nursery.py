"""Runs in processes that die: each request forks a child that trains, and kills itself where the request says.

    python -m tests.learner.nursery      one JSON request per line in, one JSON response per line out

Forked from one parent that has imported everything, so that a run takes a second. A fault point is a named function
and one of its calls; nothing of it is in the program itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Point:
    """Dies before or after the n-th (from 1) call of `module:name` whose arguments, as text, contain `text`."""

    target: str
    call: int = 1
    after: bool = False
    text: str = ""

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.target.partition(':')[2]}({self.text})[{self.call}]"


@dataclass(frozen=True)
class Ended:
    """Exit code of a child (below zero: a signal), what it said last, and the point where it killed itself."""

    code: int
    said: str
    point: str


class Nursery:
    """The parent, seen from a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.learner.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        config: Any,
        resume: bool = False,
        point: Point | None = None,
        kill_after: float | None = None,
        script: str | None = None,
    ) -> Ended:
        """Trains in a child and waits for its end.

        Args:
            config: of the run.
            resume: as `learner.run.run`.
            point: where it kills itself.
            kill_after: seconds after which it is killed from outside.
            script: Python that the child executes first.
        """
        request = {
            "config": config.model_dump(mode="json"),
            "resume": resume,
            "kill_after": kill_after,
            "point": None if point is None else asdict(point),
            "script": script,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def arm(point: Point, witness: Path) -> None:
    """Patches the function."""
    module, _, path = point.target.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, import_module(module))
    whole, calls = getattr(owner, name), 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += point.text in " ".join(map(str, (*arguments, *named.values())))
        now = calls == point.call and point.text in " ".join(map(str, (*arguments, *named.values())))
        if now and not point.after:
            die(point, witness)
        result = whole(*arguments, **named)
        if now:
            die(point, witness)
        return result

    setattr(owner, name, patched)


def die(point: Point, witness: Path) -> None:
    witness.write_text(str(point))
    os.kill(os.getpid(), signal.SIGKILL)


def child(request: dict[str, Any], said: Path, witness: Path) -> int:
    """The run; everything it says goes to a file."""
    from configs import exits
    from configs.schema import RunConfig
    from learner.main import guarded
    from learner.run import run
    from learner.shutdown import Stopping

    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if request["script"]:
        exec(request["script"], {})
    if request["point"]:
        arm(Point(**request["point"]), witness)
    config, stopping = RunConfig.model_validate(request["config"]), Stopping()
    stopping.install()

    def work() -> int:
        run(config, request["resume"], stopping=stopping)
        return exits.DONE

    return guarded(config, work)


def serve() -> None:
    import learner.backends.inline
    import learner.run  # noqa: F401 (imported before the first fork)
    from learner.state.provenance import code_fingerprint

    code_fingerprint()  # all children are of the code as it is now, whoever edits it meanwhile
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["config"]["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        said, witness = folder / "said.txt", folder / "witness.txt"
        witness.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(request, said, witness)
            finally:
                if sys.exc_info()[0] is not None:
                    import traceback

                    os.write(2, traceback.format_exc().encode())
                os._exit(code)
        deadline = None if request["kill_after"] is None else time.monotonic() + request["kill_after"]
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if deadline is not None and time.monotonic() > deadline:
                deadline = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        response = Ended(
            os.waitstatus_to_exitcode(ended[1]),
            said.read_text()[-4000:] if said.exists() else "",
            witness.read_text() if witness.exists() else "",
        )
        print(json.dumps(asdict(response)), flush=True)


if __name__ == "__main__":
    serve()
