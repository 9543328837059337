"""All checks that require a GPU, in one call; prints one JSON object per check.

    python -m evaluation.gpu_checks [--editors FOLDER ...]

Run it from a checkout. Without --editors: a tiny random Kontext (made for the occasion) and the embedded base,
each in float32 and bfloat16. Needs no Ray. Ends with status 1 when a check failed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.rollout import roll_out
from configs.load import config_hash, load_config
from configs.output import protect_output
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.editors.policy import open_policy
from evaluation.speed.core import measure_learner, measure_rollout, open_bench
from evaluation.speed.timing import machine
from learner.run import run
from learner.scheduling.sampler import LeaseSampler
from learner.update.learner import Learner
from rewards.pool import RewardPool, at_once

DTYPES = ("float32", "bfloat16")
ACD_TOLERANCE = 1e-5
"""Largest relative difference of ACD from the explicit softmax of the same queries and keys."""


class CheckFailed(AssertionError):
    """A failed check; the message says what it expected and got."""


Check = Callable[[RunConfig], Mapping[str, Any]]


def expect(held: bool, sentence: str) -> None:
    """Raise CheckFailed with the message unless `held`."""
    if not held:
        raise CheckFailed(sentence)


def settings(editor: str, dtype: str, device: str, folder: Path, name: str) -> RunConfig:
    """The configuration of a short inline run of that editor with every reward of the benchmark and ACD."""
    return load_config(
        [
            "--name",
            name,
            "--folder",
            str(folder),
            "--cluster.mode",
            "inline",
            "--editor.path",
            editor,
            "--editor.dtype",
            dtype,
            "--editor.device",
            device,
            "--rewards.weights.acd",
            "0.3",
            "--learner.steps",
            "3",
            "--learner.groups_per_step",
            "4",
            "--data.train_tasks",
            "16",
            "--data.held_out_tasks",
            "4",
            "--report.gallery_tasks",
            "1",
        ]
    )


def rollouts_repeat(config: RunConfig) -> dict[str, Any]:
    """Check that two rollouts of one lease are bit-equal."""
    policy, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    lease = LeaseSampler(config.seed, len(tasks.train), 1).leases(0, 0)[0]
    first, second = (
        roll_out(policy, tasks.train[lease.task_index], lease, config, config_hash(config)) for _ in range(2)
    )
    for part in ("candidates", "predecessors", "images", "acd"):
        same = np.array_equal(getattr(first, part), getattr(second, part))
        expect(same, f"{part} of two rollouts of one lease: expected equal bits, got a difference")
    spread = float(first.candidates.std(axis=1).mean())
    expect(spread > 0, "the candidates must differ from each other; they are all equal")
    return {"candidate_spread": spread}


def attention_is_exact(config: RunConfig) -> dict[str, Any]:
    """Check that ACD equals the explicit softmax in float64, and that the probe leaves the velocity bit-equal."""
    policy, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    task = tasks.train[0]
    condition = policy.encode(task)
    mask = policy.token_mask(task.edit_mask, condition)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, *condition.source_latents.shape[1:], generator=generator).to(policy.device)
    sigma = torch.tensor([1.0, 0.6, 0.2], device=policy.device)
    explicit: list[Tensor] = []
    with torch.no_grad():
        plain = policy.velocity(latents, sigma, condition)
        with policy.attention_probe(mask, config.rewards.acd_blocks) as probe:
            observe: Callable[[Tensor, Tensor], None] = vars(type(probe))["observe"].__get__(probe)

            def both(query: Tensor, key: Tensor) -> None:
                observe(query, key)
                explicit.append(explicit_acd(query, key, mask, condition.text_valid))

            vars(probe)["observe"] = both
            watched = policy.velocity(latents, sigma, condition)
            acd = probe.take().double()
    expected = torch.stack(explicit).mean(dim=0)
    error = float(((acd - expected) / expected).abs().max())
    expect(
        len(explicit) == config.rewards.acd_blocks, f"expected {config.rewards.acd_blocks} blocks, got {len(explicit)}"
    )
    expect(
        error <= ACD_TOLERANCE,
        f"ACD: expected a difference from the explicit softmax of at most {ACD_TOLERANCE:g}, got {error:g}",
    )
    expect(torch.equal(plain, watched), "the velocity under the probe must have the same bits; it differs")
    return {"acd": acd.tolist(), "relative_error": error}


def explicit_acd(query: Tensor, key: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """ACD float64 [B] by the formula: query and key [B, V + N + ..., H, D], mask [N], valid bool [V]."""
    text, tokens = valid.shape[0], mask.shape[0]
    q, k = query[:, :text].double(), key[:, text : text + tokens].double()
    attention = torch.softmax(torch.einsum("bvhd,bnhd->bhvn", q, k) / math.sqrt(q.shape[-1]), dim=-1)
    onto = attention.mean(dim=1)[:, valid].sum(dim=1)  # a(u) [B, N]
    inside = mask.double()
    return (onto @ inside / inside.sum()) / onto.mean(dim=1)


def learner_steps(config: RunConfig) -> dict[str, Any]:
    """Check that the policy gate accepts fresh groups, before and after an update that changes the weights."""
    policy, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    pool, found = RewardPool(config.rewards, tasks), []
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(config, policy, tasks, folder)
        before = learner.publish()
        for step in range(2):
            leases = LeaseSampler(config.seed, len(tasks.train), config.learner.groups_per_step).leases(step, step)
            for lease in leases:
                group = roll_out(policy, tasks.train[lease.task_index], lease, config, config_hash(config))
                report = learner.consume(group, at_once(pool.score(group)))
                expect(report.accepted, f"the learner rejected a group: {report.reason}")
            found.append(learner.update())
    metrics = [report.metrics for report in found]
    expect(all(report.applied for report in found), "the gradient must be finite; it is not")
    expect(learner.publish().fingerprint != before.fingerprint, "two updates must change the adapter; it is as before")
    expect(all(m["ratio_deviation"] == 0 for m in metrics), f"expected a ratio of 1, got deviations {metrics}")
    names = ("leap_error", "leap_tolerance", "gradient_norm", "loss", "zero_variance_groups")
    return {name: [m[name] for m in metrics] for name in names}


def whole_run(config: RunConfig) -> dict[str, Any]:
    """Check a complete inline run, from base evaluation to exported adapter."""
    summary = run(config)
    expect(
        summary["counters"]["trained"] == config.learner.steps * config.learner.groups_per_step,
        f"expected every group to be trained on, got counters {summary['counters']}",
    )
    expect(Path(summary["adapter"]).exists(), f"expected an adapter at {summary['adapter']}, got none")
    return {"base": summary["base"]["mean"], "final": summary["final"]["mean"], "seconds": summary["seconds"]}


def speed(config: RunConfig) -> dict[str, Any]:
    """The ratios of `evaluation.speed core`, without the loop."""
    bench, clock = open_bench(config)
    rows = measure_rollout(bench, 10) + measure_learner(bench, 5)
    return {"clock": clock, "rows": [{**asdict(row), "reached": row.reached} for row in rows]}


CHECKS: tuple[Check, ...] = (rollouts_repeat, attention_is_exact, learner_steps, whole_run, speed)


def run_checks(editors: Mapping[str, str], dtypes: Sequence[str], device: str) -> Iterator[dict[str, Any]]:
    """The result of every check of every editor (name -> folder) in every dtype: `ok`, and numbers or `error`."""
    for name, path in editors.items():
        for dtype in dtypes:
            for check in CHECKS:
                with tempfile.TemporaryDirectory(prefix="locus-gpu-") as folder:
                    config = settings(path, dtype, device, Path(folder), f"{name}-{dtype}")
                    yield {"check": check.__name__, "editor": name, "dtype": dtype, **one(check, config, device)}


def one(check: Check, config: RunConfig, device: str) -> dict[str, Any]:
    """One check's result, seconds and peak memory."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    # Every exception is a result here: GPU time is scarce, and the other checks should still run.
    try:
        result: dict[str, Any] = {"ok": True, **check(config)}
    except Exception:
        result = {"ok": False, "error": traceback.format_exc()}
    result["check_seconds"] = round(time.perf_counter() - start, 2)
    if on_gpu:
        result["peak_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; 0 if all passed."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.gpu_checks", description=__doc__.split("\n")[0])
    parser.add_argument("--editors", nargs="+", help="folders in diffusers format; default: a tiny one and the base")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "These checks need a CUDA GPU, and torch sees none here. On the CPU run: python -m pytest", file=sys.stderr
        )
        return 1
    print(json.dumps(machine(torch.device("cuda"))), flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="locus-gpu-") as folder:
        editors = named(options.editors) if options.editors else default_editors(Path(folder))
        for result in run_checks(editors, DTYPES, "cuda"):
            print(json.dumps(result), flush=True)
            failed += not result["ok"]
    print(json.dumps({"failed": failed}))
    return 1 if failed else 0


def named(folders: Sequence[str]) -> dict[str, str]:
    """Editors by the last part of their path."""
    return {Path(folder).name: folder for folder in folders}


def default_editors(folder: Path) -> dict[str, str]:
    """A tiny random Kontext, written to `folder`, and the embedded base."""
    # The tiny model is part of the tests, so this needs a checkout; the package does not contain it.
    from tests.tiny_kontext import make_tiny_kontext

    return {"tiny": str(make_tiny_kontext(folder / "tiny")), "base": "shapes"}


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
