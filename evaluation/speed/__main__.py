"""Overhead of the system relative to the indispensable work: ratios, all measured in one run.

    python -m evaluation.speed core [--repetitions 15] [--section.key VALUE ...]
    python -m evaluation.speed rewards [--repetitions 15]
    python -m evaluation.speed runtime [--repetitions 15] [--loop-pairs 2]
    python -m evaluation.speed methods [--repetitions 15] [--section.key VALUE ...]

Goals are shown, not enforced. Writes evaluation/results/speed_WHAT.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from configs.errors import ConfigError
from configs.load import config_hash, load_config
from configs.output import protect_output
from configs.paths import path_argument
from configs.schema import RunConfig
from evaluation.speed.table import as_json, as_table
from evaluation.speed.timing import Measured, machine

RESULTS = Path(__file__).parents[1] / "results"


def measure_core(
    config: RunConfig, options: argparse.Namespace, flags: Sequence[str], console: Console
) -> tuple[list[Measured], str, torch.device]:
    """The rows of the core, with their clock and device."""
    from evaluation.speed import core as speed_core
    from learner.quiet import quiet_libraries

    quiet_libraries()
    bench, clock = speed_core.open_bench(config)
    rows = speed_core.measure_rollout(bench, options.repetitions)
    rows += speed_core.measure_learner(bench, max(3, options.repetitions // 3))
    device = bench.policy.device
    if options.loop_pairs and importlib.util.find_spec("ray") is None:
        console.print("The loop was not measured: Ray is not installed; type: pip install -e '.[ray]'", markup=False)
    elif options.loop_pairs:
        rows += speed_core.measure_loop(flags, options.loop_pairs, machine(device)["cores"] or 1)
    return rows, clock, device


def measure_rewards(config: RunConfig, options: argparse.Namespace) -> tuple[list[Measured], str, torch.device]:
    """The rows of the reward pool, with their clock and device."""
    from evaluation.speed.rewards import measure

    rows, clock = measure(config, options.repetitions)
    return rows, clock, torch.device("cpu")


def measure_runtime(
    config: RunConfig, options: argparse.Namespace, flags: Sequence[str]
) -> tuple[list[Measured], str, torch.device]:
    """The rows of the distributed runtime, with their clocks and device."""
    from evaluation.speed.runtime import measure

    rows, clock = measure(config, flags, options.loop_pairs, options.repetitions, os.cpu_count() or 1)
    return rows, clock, torch.device("cpu")


def measure_methods(
    options: argparse.Namespace, flags: Sequence[str], console: Console
) -> tuple[list[Measured], str, torch.device, dict[str, Any]]:
    """The rows of the methods, with their clock and device, and further fields of the file."""
    from evaluation.speed.methods import REFERENCE, measure
    from learner.quiet import quiet_libraries

    quiet_libraries()
    found = measure(flags, options.repetitions)
    reference = found.nbytes[REFERENCE]
    for name, size in found.nbytes.items():
        console.print(f"bytes of a group, {name}: {size:,} ({size / reference:.2f} of {REFERENCE})", markup=False)
    for sentence in found.left_out:
        console.print(sentence, markup=False)
    return found.rows, found.clock, found.device, {"bytes_per_group": found.nbytes, "left_out": found.left_out}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table and write the JSON; 0 if everything was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("what", choices=["core", "rewards", "runtime", "methods"])
    parser.add_argument(
        "--repetitions", type=int, default=15, help="repetitions of everything but the loop, default 15"
    )
    parser.add_argument(
        "--loop-pairs", type=int, default=2, help="core, runtime: runs of the loop in each mode, default 2; 0: none"
    )
    parser.add_argument("--out", type=path_argument, help="default evaluation/results/speed_WHAT.json")
    options, flags = parser.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        config = load_config(flags)
    except ConfigError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    load = os.getloadavg()[0]  # of other processes: before this starts
    more: dict[str, Any] = {}
    if options.what == "methods":
        rows, clock, device, more = measure_methods(options, flags, console)
    elif options.what == "core":
        rows, clock, device = measure_core(config, options, flags, console)
    elif options.what == "runtime":
        rows, clock, device = measure_runtime(config, options, flags)
    else:
        rows, clock, device = measure_rewards(config, options)
    words = sys.argv[1:] if arguments is None else arguments
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **machine(device),
        "load_average": round(load, 2),
        "clock": clock,
        "command": shlex.join(["python", "-m", "evaluation.speed", *words]),
        "repetitions": options.repetitions,
        "config_hash": config_hash(config),
    }
    console.print(as_table(rows, f"{about['chip']}, {about['cores']} cores, load {about['load_average']}; {clock}"))
    out = options.out or RESULTS / f"speed_{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(as_json(rows, {**about, **more}), indent=1) + "\n", encoding="utf-8")
    console.print(f"{out} contains these numbers", markup=False)
    return 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
