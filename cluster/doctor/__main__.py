"""`python -m cluster.doctor [FLAGS OF A RUN]`: checks every machine before a run.

    python -m cluster.doctor --config my_images                           this machine
    python -m cluster.doctor --config my_images --cluster.address auto    every node of this machine's cluster
    ray job submit -- python -m cluster.doctor --config my_images         the same from elsewhere

Prints a table of what was checked, what was found and what to type. Exit codes: 0 the run can start (possibly with
warnings), 1 it cannot, 2 invalid arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.auth import use_token
from cluster.doctor.finding import Finding, NodeReport
from configs import exits
from configs.errors import ConfigError
from configs.load import load_config
from configs.output import protect_output
from configs.schema import RunConfig

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
WIDTH = 160
"""Columns if the output is not a terminal, such as a job's log."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, print the report, and return the exit code."""
    flags = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(flags):
        print(__doc__)
        print("For FLAGS OF A RUN see `python -m learner.main --help`.")
        return exits.DONE
    try:
        config = load_config(flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST
    reports = examine_all(config)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table(reports))
    levels = [finding.level for report in reports for finding in report.findings]
    console.print(
        f"{len(levels)} checks: {levels.count('ok')} ok, {levels.count('warn')} warnings, "
        f"{levels.count('fail')} failures"
    )
    return exits.FAILED if "fail" in levels else exits.DONE


def examine_all(config: RunConfig) -> list[NodeReport]:
    """Reports on the configured cluster (`cluster.address`, or RAY_ADDRESS, which Ray sets for its jobs).

    Without one, a single report on this machine.
    """
    if config.cluster.mode == "inline" or not (config.cluster.address or os.environ.get("RAY_ADDRESS")):
        return [examine_this(config)]
    use_token()
    try:
        from cluster.doctor.nodes import examine_cluster
        from cluster.runtime import ClusterError, connect
    except ModuleNotFoundError as error:
        return [NodeReport("cluster", (no_ray(error),))]
    try:
        with connect(config.cluster):
            return examine_cluster(config)
    except ClusterError as error:
        return [NodeReport("cluster", (Finding("ray", "fail", str(error), "see cluster/README.md"),))]


def examine_this(config: RunConfig) -> NodeReport:
    """The report on this machine only."""
    from cluster.doctor.gpus import enough, machine_finding
    from cluster.doctor.machine import examine

    report = examine("this machine", config, Path(config.folder).resolve(), None)
    versions = report.versions
    seen = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "locus"))
    found = [Finding("versions", "ok", seen)]
    if config.cluster.mode == "ray":
        found.append(
            no_ray(None)
            if versions["ray"] == "absent"
            else Finding(
                "ray", "ok", f"{versions['ray']}; a run starts its own, authenticated by token, on this machine"
            )
        )
    found.append(enough(config, [machine_finding()[1]], None))
    return NodeReport(report.node, (*found, *report.findings))


def no_ray(error: Exception | None) -> Finding:
    """The finding that Ray is required but not installed."""
    return Finding("ray", "fail", str(error or "not installed"), "make install, or run with --cluster.mode inline")


def table(reports: Sequence[NodeReport]) -> Table:
    """The printed report; texts are never interpreted as markup."""
    made = Table("node", "check", "", title="Doctor", title_justify="left")
    for heading in ("found", "what to type"):
        made.add_column(heading, overflow="fold")
    for report in reports:
        for number, finding in enumerate(report.findings):
            made.add_row(
                Text(report.node if number == 0 else ""),
                Text(finding.check),
                Text(finding.level, style=STYLES[finding.level]),
                Text(finding.seen),
                Text(finding.fix),
            )
        made.add_section()
    return made


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
