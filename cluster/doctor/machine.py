"""All checks of one machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.doctor.finding import Finding, NodeReport
from cluster.doctor.gpus import machine_finding
from cluster.doctor.services import service_findings
from cluster.doctor.storage import folder_findings, shared_finding
from configs.load import to_yaml
from configs.schema import RunConfig

LIBRARIES = ("ray", "torch", "numpy", "diffusers", "transformers", "peft", "safetensors", "pillow", "pydantic")
"""Libraries whose versions must agree between learner and rollout workers, so that both compute the same."""
PACKAGES = ("locus", "configs", "editing", "actors", "rewards", "learner", "cluster")
ROOT = Path(__file__).parents[2]
DATA_SECONDS = 300.0


def examine(node: str, config: RunConfig, folder: Path, marker: Path | None) -> NodeReport:
    """The report on the current machine.

    Args:
        folder: the absolute run folder.
        marker: a file that the driver's machine created there; None on that machine itself.
    """
    gpus, _ = machine_finding()
    findings = [gpus, *folder_findings(folder)]
    if marker is not None:
        findings.append(shared_finding(marker))
    findings += [data_finding(config), *service_findings(config.rewards, config.redis)]
    judges = (config.rewards.judge.editscore.serve.python, config.rewards.judge.qwen_vl.serve.python)
    return NodeReport(node, tuple(findings), versions(), all((ROOT / python).exists() for python in judges))


def versions() -> dict[str, str]:
    """Versions of Python, of the relevant libraries, and of Locus (a hash of its source)."""
    found = {"python": platform.python_version(), "locus": source_hash()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def source_hash(root: Path = ROOT) -> str:
    """Twelve hex digits of the source code's hash, equal exactly when two machines have the same code."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def data_finding(config: RunConfig) -> Finding:
    """Whether the configured tasks and editor can be read on this machine.

    Runs `python -m editing.first_task` in a subprocess, which isolates a crashing decoder or a hanging folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        # The import path of this process: on a cluster, Locus may be in a copy of the working directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "editing.first_task", "--config", str(file)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=DATA_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Finding(
                "data",
                "fail",
                f"no task could be read in {DATA_SECONDS:g} s",
                "check whether the storage of the image folder hangs",
            )
    if done.returncode != 0:
        words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        sentence = words[-1] if words[0].startswith("Traceback") else words[0]
        return Finding("data", "fail", sentence, "use the same absolute data.path and editor.path on every node")
    seen = json.loads(done.stdout.splitlines()[-1])
    return Finding(
        "data",
        "ok",
        f"{seen['train']} tasks, {seen['held_out']} held out; read {seen['id']}, {seen['height']}×{seen['width']}",
    )
