"""What listens while a run goes on: everything on loopback or where no other user can enter, Ray's own as well."""

from pathlib import Path

import psutil
import pytest

from cluster.doctor.exposure import OpenPort, is_loopback, is_rays
from learner.run import run
from tests.judges.scripted import ScriptedServer
from tests.learner.test_loop import Watcher
from tests.system.test_judges import judged

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Listener(Watcher):
    """Writes down what the processes of the run listen on, whenever a step is done."""

    def __init__(self):
        super().__init__()
        self.within: set[OpenPort] = set()
        self.beyond: set[OpenPort] = set()
        self.rays = 0
        self.files: dict[Path, bool] = {}

    def on_step(self, record):
        super().on_step(record)
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                command = process.cmdline()
                for one in process.net_connections(kind="inet"):
                    if one.status == psutil.CONN_LISTEN:
                        found = self.within if is_loopback(one.laddr.ip) else self.beyond
                        found.add(OpenPort(one.laddr.ip, one.laddr.port, " ".join(command)[:100].strip()))
                        self.rays += is_rays(process.name(), command)
                self.files |= {
                    path: is_closed(path)
                    for path in (
                        Path(one.laddr) for one in process.net_connections(kind="unix") if one.laddr.startswith("/")
                    )
                }
            except psutil.NoSuchProcess:
                continue


def is_closed(path: Path) -> bool:
    """Whether others cannot come to a path, because of one of the folders above it."""
    return any(folder.stat().st_mode & 0o077 == 0 for folder in path.parents)


def test_what_a_run_listens_on_is_loopback(ray_cluster, tiny_kontext, tmp_path):
    listener = Listener()
    with ScriptedServer() as judge:
        run(
            judged(
                tiny_kontext,
                tmp_path,
                "listens",
                "ray",
                judge.url,
                redis={"mode": "embedded"},
                learner={"steps": 2, "groups_per_step": 2, "num_workers": 2},
            ),
            observers=[listener],
        )
    assert listener.beyond == set()
    assert {"plasma_store", "raylet"} <= {path.name for path in listener.files}
    assert [path for path, closed in listener.files.items() if not closed] == []
    assert len(listener.within) > 5 and listener.rays > 5  # the look saw sockets, of Ray, too
