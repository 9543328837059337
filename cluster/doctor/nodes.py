"""The doctor on a Ray cluster: the same checks on every node, then comparisons across nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor.exposure import dashboard_finding, exposure_findings
from cluster.doctor.finding import Finding, NodeReport
from cluster.doctor.gpus import enough
from cluster.doctor.machine import examine
from cluster.doctor.storage import marker, store_finding
from cluster.placement import most
from configs.judges import JudgeConfig
from configs.schema import RunConfig
from configs.text import counted

NODE_SECONDS = 420.0
HEAD = "node:__internal_head__"


def examine_cluster(config: RunConfig) -> list[NodeReport]:
    """One report per node of the connected cluster, followed by one on the cluster as a whole."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    folder = Path(config.folder).resolve()
    dashboard = str(ray._private.worker.get_dashboard_url() or "")
    with marker(folder) as put:
        asked = {
            _examine.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                name_of(node),
                config.model_dump(mode="json"),
                str(folder),
                None if put is None else str(put),
                node["Resources"].get("object_store_memory", 0.0),
                dashboard if HEAD in node["Resources"] else "",
            ): node
            for node in nodes
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        reports = [_report(ref, name_of(node)) for ref, node in asked.items()]
    return [
        *reports,
        NodeReport(
            "cluster",
            (
                Finding("ray", "ok", f"{ray.__version__}, {counted(len(nodes), 'node')}"),
                enough(config, [node["Resources"].get("GPU", 0.0) for node in nodes], most("GPU")),
                *between(config.rewards.judge, reports, most("judge")),
            ),
        ),
    ]


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _examine(
    node: str, config: Mapping[str, Any], folder: str, put: str | None, store: float, dashboard: str
) -> NodeReport:
    report = examine(node, RunConfig.model_validate(config), Path(folder), None if put is None else Path(put))
    found = [*report.findings, store_finding(store), *exposure_findings()]
    if dashboard:
        found.append(dashboard_finding(dashboard))
    return replace(report, findings=tuple(found))


def _report(ref: ray.ObjectRef, node: str) -> NodeReport:
    try:
        report: NodeReport = ray.get(ref, timeout=1.0)
    except (RayError, ImportError, RuntimeError) as error:  # a worker without Locus fails in different ways
        reason = str(error).strip().splitlines()[-1]
        return NodeReport(
            node,
            (
                Finding(
                    "node",
                    "fail",
                    f"could not be checked: {type(error).__name__}: {reason}",
                    "check that Locus is installed there (make install), in the environment that Ray was started from",
                ),
            ),
        )
    return report


def between(judge: JudgeConfig, reports: Sequence[NodeReport], to_come: float | None) -> list[Finding]:
    """Findings across nodes: versions that differ, no node for a judge.

    `to_come`: number of judge nodes that an autoscaler may start; None without one.
    """
    found = []
    answered = [report for report in reports if report.versions]
    for name in sorted({name for report in answered for name in report.versions}):
        by_version: dict[str, list[str]] = {}
        for report in answered:
            by_version.setdefault(report.versions.get(name, "absent"), []).append(report.node)
        if len(by_version) > 1:
            seen = "; ".join(f"{version} on {', '.join(where)}" for version, where in sorted(by_version.items()))
            found.append(
                Finding(
                    "versions",
                    "fail",
                    f"{name} differs: {seen}",
                    "use the same checkout and `make install` on every node, or one image for all",
                )
            )
    if not found and answered:
        found.append(Finding("versions", "ok", shown(answered[0].versions)))
    served = [name for name in judge.configured if getattr(judge, name).serve.replicas]
    if served and not any(report.judge_environment for report in answered):
        seen = f"{', '.join(served)} must be served, but no node has vLLM"
        found.append(
            Finding(
                "judge servers",
                "warn",
                f"{seen} now; {to_come:g} judge nodes may be started",
                "nothing, if they have the judge's image or `make judge`: the run waits while the autoscaler "
                "starts them",
            )
            if to_come
            else Finding(
                "judge servers",
                "fail",
                seen,
                "run make judge on the nodes for judges, or use the judge's image there",
            )
        )
    return found


def shown(versions: Mapping[str, str]) -> str:
    """The most important versions on one line."""
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "ray", "torch", "locus"))


def name_of(node: Mapping[str, Any]) -> str:
    """A node's name in the report."""
    head = " (head)" if HEAD in node["Resources"] else ""
    return f"{node['NodeManagerAddress']}{head}"
