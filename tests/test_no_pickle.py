"""Nothing that a package of ours reads can run code: no pickle, read from the sources themselves."""

import ast

import pytest

from tests.test_import_direction import all_imports, modules

PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"}


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    """The calls of functions of these dotted names."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def says(call: ast.Call, name: str, value: bool) -> bool:
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def faults(module: str, tree: ast.Module) -> list[str]:
    found = [
        f"{module} imports {name}, which runs what it reads; write safetensors and JSON"
        for name in all_imports(tree, module)
        if PICKLES & set(name.split("."))
    ]
    found += [
        f"{module} imports {alias.name} of {node.module}, which runs what it reads; write safetensors and JSON"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in PICKLES
    ]
    found += [
        f"{module}:{call.lineno} calls torch.load without weights_only=True"
        for call in calls(tree, "torch.load", "load")
        if not says(call, "weights_only", True)
        and (ast.unparse(call.func) == "torch.load" or "from torch import load" in ast.unparse(tree))
    ]
    found += [f"{module}:{call.lineno} calls torch.save, which writes pickle" for call in calls(tree, "torch.save")]
    found += [
        f"{module}:{call.lineno} lets numpy read pickle"
        for call in calls(tree, "np.load", "numpy.load", "np.savez", "np.save")
        if any(word.arg == "allow_pickle" and not says(call, "allow_pickle", False) for word in call.keywords)
    ]
    return found


def test_no_package_reads_or_writes_pickle():
    assert [fault for module, tree in modules() for fault in faults(module, tree)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "from ray import cloudpickle",
        "import ray.cloudpickle as cp",
        "import shelve as s",
        "import torch\ntorch.load('a.pt')",
        "import torch\ntorch.load('a.pt', weights_only=False)",
        "import torch\ntorch.load('a.pt', weights_only=flag)",
        "from torch import load\nload('a.pt')",
        "import torch\ntorch.save({}, 'a.pt')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
    ],
)
def test_the_check_sees_each_way(source):
    assert len(faults("learner.state.checkpoint", ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a.pt', weights_only=True)",
        "import numpy as np\nnp.load('a.npy')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=False)",
        "import json\njson.load(file)",
    ],
)
def test_the_check_lets_the_rest_be(source):
    assert faults("learner.state.checkpoint", ast.parse(source)) == []
