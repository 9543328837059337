"""The placement and the memory plan of a run as text, with whether it fits this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.gpus import Gpu, needs, query
from cluster.placement import OBJECT_STORE_BYTES, placement_lines
from configs.judges import JUDGES, JudgeConfig, ServeConfig
from configs.schema import RunConfig
from editing.editors.folder import TARGETS, FolderError, editor_sizes, stored_bytes
from learner.planning.memory import RolePlan, image_size_of, memory_plan, on_gpu
from rewards.vllm.context import kv_bytes, text_config

UTILISATION = 0.9
"""Share of its GPU that vLLM takes unless it is told otherwise (--gpu-memory-utilization)."""
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """What this machine has: free host memory in bytes (None where that cannot be told) and its GPUs."""

    memory: int | None
    gpus: Sequence[Gpu]


def this_machine() -> Machine:
    """What there is now."""
    memory = None
    if MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        memory = 1024 * int(found[1]) if found else None
    try:
        gpus = query()
    except (OSError, subprocess.SubprocessError, ValueError):
        gpus = []  # `python -m cluster.doctor` says what is wrong with them
    return Machine(memory, gpus)


def report(config: RunConfig, machine: Machine) -> list[str]:
    """Placement, plan per process and verdict; one line each."""
    lines = [*placement_lines(config), ""]
    try:
        sizes = editor_sizes(config.editor.path, TARGETS[config.editor.lora.targets])
    except FolderError as error:
        return [*lines, f"memory: not known, since {error}", *judge_lines(config.rewards.judge)]
    plans, image = memory_plan(config, sizes), image_size_of(config.data, sizes)
    lines.append(
        f"memory of each process (= counted from headers and shapes, ~ estimated); images of "
        f"{image.pixels} pixels, {image.tokens} tokens"
        + (" (assumed: data.resolution is null)" if image.assumed else "")
    )
    for plan in plans:
        lines += plan_lines(plan, on_gpu(config, plan.role, len(machine.gpus)))
    return [*lines, *judge_lines(config.rewards.judge), *verdict(config, plans, machine)]


def plan_lines(plan: RolePlan, gpu: bool) -> Iterator[str]:
    """One kind of process: a sum per place, then its items, the largest first. Without a GPU there is no context."""
    on = {"editor": "GPU" if gpu else "host", "host": "host", "store": "object store", "disk": "disk"}
    items = sorted((item for item in plan.items if gpu or item.name != "GPU context"), key=lambda one: -one.bytes)
    sums: dict[str, int] = {}
    for item in items:
        sums[on[item.where]] = sums.get(on[item.where], 0) + item.bytes
    count = f"{plan.count} x " if {"editor", "host"} & {item.where for item in items} else ""
    yield f"  {count}{plan.role}: " + ", ".join(f"{text(sums[place])} {place}" for place in sums)
    for item in items:
        yield f"    {'=' if item.exact else '~'} {text(item.bytes):>9}  {on[item.where]:<13} {item.name}"


def verdict(config: RunConfig, plans: Sequence[RolePlan], machine: Machine) -> list[str]:
    """Whether this machine has room for it; on a cluster that is not known here."""
    if config.cluster.mode == "ray" and (config.cluster.address or os.environ.get("RAY_ADDRESS")):
        return ["Whether it fits depends on the cluster's nodes: python -m cluster.doctor checks them."]
    host = gpu = largest = 0
    for plan in plans:
        if on_gpu(config, plan.role, len(machine.gpus)):
            gpu += plan.count * plan.bytes("editor")
            largest = max(largest, plan.bytes("editor"))
            host += plan.count * plan.bytes("host", "store")
        else:
            context = sum(item.bytes for item in plan.items if item.name == "GPU context")
            host += plan.count * (plan.bytes("editor", "host", "store") - context)
    lines = [_fits("memory of this machine", host, machine.memory)]
    store = sum(plan.bytes("store") for plan in plans)
    if store > OBJECT_STORE_BYTES:
        lines.append(
            f"object store: {text(store)} of {text(OBJECT_STORE_BYTES)}; the rest spills to disk, which is "
            "slow: lower learner.groups_per_step or cluster.staleness"
        )
    if gpu:
        free = [2**20 * (one.total - one.used) for one in machine.gpus]
        lines.append(_fits("memory of all GPUs here", gpu, sum(free)))
        lines.append(_fits("largest process on one GPU", largest, max(free, default=0)))
    reserved, here = needs(config).total, len(machine.gpus)
    if reserved and config.cluster.mode == "ray":
        lines.append(
            f"GPUs that are reserved: {reserved:g} of {here} here: " + ("fits" if reserved <= here else "DOES NOT FIT")
        )
    return lines


def _fits(what: str, needed: int, free: int | None) -> str:
    if free is None:
        return f"{what}: {text(needed)} needed, free memory unknown"
    return f"{what}: {text(needed)} of {text(free)} free: " + ("fits" if needed <= free else "DOES NOT FIT")


def judge_lines(judge: JudgeConfig) -> Iterator[str]:
    """What the judge servers need that the run starts itself."""
    for name in JUDGES:
        serve: ServeConfig = getattr(judge, name).serve
        if serve.replicas:
            weights, how = judge_weights(serve.path)
            known = "weights of unknown size" if weights is None else f"weights {text(weights)} ({how})"
            share = f"vLLM takes {UTILISATION:.0%} of its GPU for them and the KV cache"
            yield (
                f"  {serve.replicas} x judge {name}: {known}; KV cache {kv_cache(serve.path)}; "
                + (share if serve.gpus else "on the CPU")
            )


def judge_weights(path: str) -> tuple[int | None, str]:
    """Bytes of a judge's weights and how they are known: from its files, or guessed from its name in bfloat16."""
    try:
        return stored_bytes(Path(path)), "counted from its files"
    except FolderError:
        size = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![A-Za-z])", Path(path).name)
        return (round(2e9 * float(size[1])), f"guessed from the name: {size[0]} in bfloat16") if size else (None, "")


def kv_cache(path: str) -> str:
    """How much a thousand tokens take, from the model's configuration."""
    found = text_config(path)
    per_token = kv_bytes(found) if found else None
    return "of unknown size" if per_token is None else f"{text(1000 * per_token)} per 1000 tokens"


def text(count: int) -> str:
    """A number of bytes, formatted, decimal: 23.8 GB."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def as_comments(lines: Sequence[str]) -> str:
    """The lines as YAML comments, so that what --dry-run prints is a configuration file."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
