"""The folder of a run's own Ray: private, and its sockets' paths short enough wherever temporary files go."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.session_folder import LONGEST_WITHIN, private_folder, remove

ROOT = Path(__file__).parents[2]


@pytest.fixture
def short_folder():
    """A temporary folder with a short path: the test makes it longer."""
    folder = Path(tempfile.mkdtemp(prefix="l", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def of_length(base: Path, length: int) -> Path:
    folder = base / ("x" * (length - len(str(base)) - 1))
    folder.mkdir()
    return folder


@pytest.mark.parametrize("length", [16, 20, 21, 22, 43, 44, 75, 90])
@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_it_is_private_holds_sockets_and_lies_where_temporary_files_go(short_folder, monkeypatch, variable, length):
    base = of_length(short_folder, length)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is remembered
    monkeypatch.setenv(variable, str(base))
    folder = private_folder()
    try:
        assert folder.resolve().is_relative_to(base)
        for one in (folder, folder.resolve()):
            about = one.parent.stat()
            assert about.st_mode & 0o777 == 0o700 and about.st_uid == os.getuid()
        path = f"{folder}/{'s' * (LONGEST_WITHIN - 1)}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    finally:
        if folder.is_symlink():
            shutil.rmtree(folder.parent)


@pytest.mark.fault
@pytest.mark.ray
def test_ray_starts_where_the_path_of_temporary_files_is_long(short_folder):
    base = of_length(short_folder, 90)
    for last, remain in (("ray.get(ray.remote(lambda: print(7)).remote())", []), ("1 / 0", ["plasma_store"])):
        code = (
            "import ray; from cluster.runtime import connect; from configs.schema import ClusterConfig\n"
            f"with connect(ClusterConfig()): print(ray.get(ray.remote(lambda: 7).remote())); {last}"
        )
        said = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "TMPDIR": str(base), "RAY_TMPDIR": ""},
        )
        assert said.stdout == "7\n", said.stderr
        # Its logs are kept only where there is a reason to look into them.
        assert [path.name for path in short_folder.rglob("plasma_store")] == remain


def test_a_folder_is_removed_with_the_link_that_stands_for_it(short_folder, monkeypatch):
    for length in (20, 75):
        base = of_length(short_folder, length)
        monkeypatch.setenv("RAY_TMPDIR", str(base))
        folder = private_folder()
        (folder / "session").mkdir()
        remove(folder)
        assert not folder.parent.exists() and list(base.iterdir()) == []
