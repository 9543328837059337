"""Makes torchvision importable where its compiled operators do not load; does nothing where they do.

    python locus_torchvision_ops.py        puts this into the environment of the interpreter that runs it

torchvision from the package index is built for CUDA; beside a CPU torch its compiled part does not load, and its import
fails with `operator torchvision::nms does not exist`. The Python parts, which are all that Qwen-VL processors use,
only need the two operators to be declared. Nothing of this is needed on a machine with a GPU.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_keep: list[object] = []  # a torch.library.Library takes its operators with it when it goes


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares the operators just before torchvision is imported, so that other processes pay nothing."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()
        return None


def declare() -> None:
    """Declares torchvision's two operators unless its compiled part loads."""
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in DECLARED:
            library.define(schema)
        _keep.append(library)


def install() -> Path:
    """Has every start of this interpreter load this file, by a line in its site-packages."""
    line = Path(sysconfig.get_path("purelib")) / "locus_torchvision_ops.pth"
    load = "import locus_torchvision_ops; locus_torchvision_ops.before_torchvision()"
    line.write_text(f"{Path(__file__).resolve().parent}\n{load}\n", encoding="utf-8")
    return line


def before_torchvision() -> None:
    """Puts `BeforeTorchvision` in front of the other finders, once (an interpreter may read the line twice)."""
    if not any(isinstance(finder, BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, BeforeTorchvision())


if __name__ == "__main__":
    print(f"torchvision: {install()}")
