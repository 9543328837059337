"""The operators of torchvision: declared where its compiled part does not load, and only then.

Each case is a process of its own, because an operator is declared once in the life of a process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from rewards.vllm.inside import locus_torchvision_ops as ops

CODE = """
import sys
sys.path[:0] = [{folder!r}, {inside!r}]
import locus_torchvision_ops as ops
ops.before_torchvision(); ops.before_torchvision()
assert sum(isinstance(f, ops.BeforeTorchvision) for f in sys.meta_path) == 1
if {loads}:
    import torch; torch.ops.load_library = lambda path: print("loaded", path)
import torchvision
import torchvision
import torch
print("declared", hasattr(torch.ops.torchvision, "nms"), torchvision.READY)
"""


@pytest.mark.parametrize("loads", [False, True])
def test_operators_are_declared_only_where_the_compiled_part_does_not_load(tmp_path, loads):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("READY = 'imported'\n")
    (package / "_C.so").write_bytes(b"not a library")
    code = CODE.format(folder=str(tmp_path), inside=str(Path(ops.__file__).parent), loads=loads)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == f"declared {not loads} imported"
    assert lines[:-1] == ([f"loaded {package / '_C.so'}"] if loads else [])


def test_installing_is_a_line_that_python_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    line = ops.install()
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import site, sys; site.addsitedir({str(tmp_path)!r}); print([type(f).__name__ for f in sys.meta_path])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert line.parent == tmp_path and "'BeforeTorchvision'" in found.stdout
