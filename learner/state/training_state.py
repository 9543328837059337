"""The learner's state as tensors and JSON, and whether a saved one may be resumed under a changed configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from configs.judges import JUDGES
from configs.schema import RunConfig
from learner.state.checkpoint import Checkpoint
from learner.state.provenance import code_fingerprint

# What may differ between a checkpoint and the run that continues it: where and how the work is done, what is
# reported, and how long it goes on (the learning rate follows the new length from here on). Of a judge, where it
# is served and how patiently it is asked; what it is and how it responds (weights, passes, sampling) may not differ.
CHANGEABLE = (
    "name",
    "folder",
    "report",
    "checkpoint",
    "cluster",
    "learner.steps",
    "editor.device",
    "editor.micro_batch",
    "editor.gradient_checkpointing",
    "redis",
    "service",
    "rewards.embedding.gpus",
    "rewards.scorer_deadline",
    "rewards.scorer_processes",
    *(f"rewards.embedding.{model}.{key}" for model in ("clip", "dino") for key in ("device", "batch_size")),
    *(
        f"rewards.judge.{key}"
        for key in ("concurrency", "deadline", "patience", "attempts", "max_unanswered", "max_bad_answers")
    ),
    *(
        f"rewards.judge.{judge}.{key}"
        for judge in JUDGES
        for key in ("urls", "serve.replicas", "serve.python", "serve.arguments", "serve.gpus", "serve.start_timeout")
    ),
)


def optimizer_tensors(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Adam's moments by `<parameter>/<moment>`, and its update counts by parameter; empty before the first update."""
    tensors, counts = {}, {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if key == "step":
                counts[name] = float(value)
            else:
                tensors[f"{name}/{key}"] = value.clone()
    return tensors, counts


def restore_optimizer(
    optimizer: torch.optim.AdamW,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    counts: Mapping[str, float],
) -> None:
    """Takes over what `optimizer_tensors` gave for the same parameters; the settings stay the optimizer's own.

    Raises:
        ValueError: when a tensor belongs to no parameter or does not have its shape.
    """
    entries: dict[str, dict[str, Tensor]] = {name: {"step": torch.tensor(count)} for name, count in counts.items()}
    for label, value in tensors.items():
        name, _, key = label.rpartition("/")
        if name not in parameters or name not in entries or value.shape != parameters[name].shape:
            raise ValueError(f"the optimizer's {label} {list(value.shape)} fits no parameter of this run.")
        entries[name][key] = value
    own = optimizer.state_dict()
    order = list(parameters)
    own["state"] = {order.index(name): entry for name, entry in entries.items()}
    optimizer.load_state_dict(own)


def differing_keys(saved: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys that differ between two configurations (as JSON) with both values, None where a key is not there,
    sorted."""
    before, after = dict(_flat(saved)), dict(_flat(present))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def changed_keys(
    saved: Mapping[str, Any], present: Mapping[str, Any], allowed: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """`differing_keys` without those that a continued run may change, because they are harmless or `allowed` (keys or
    sections)."""
    return {
        key: values
        for key, values in differing_keys(saved, present).items()
        if not is_within(key, (*CHANGEABLE, *allowed))
    }


def refusal(source: str, changed: Mapping[str, tuple[Any, Any]]) -> str | None:
    """Why a run is not continued after what `source` says of it, key by key, and what to type; None if it may be."""
    if not changed:
        return None
    told = "; ".join(f"{key} was {before!r} and is {after!r} now" for key, (before, after) in changed.items())
    # What cannot be set back by a flag is named as a whole.
    flags = {key.partition(".")[0] if key.startswith(("code.", "data.fingerprint.")) else key: None for key in changed}
    return (
        f"{source}: {told}. A resumed run goes on as it began: set it back, allow it with "
        f"{' '.join(f'--allow-changed {key}' for key in flags)}, or start under another --name"
    )


def refusal_of_another_run(
    checkpoint: Checkpoint, config: RunConfig, data: Mapping[str, str], allowed: Sequence[str]
) -> str | None:
    """Why a run may not go on from a checkpoint, or None.

    Args:
        checkpoint: verified.
        config: the present configuration.
        data: the present tasks' fingerprints.
        allowed: dotted keys or sections of the configuration, `data` (which also covers the tasks themselves) and
            `code` (sources and libraries) that may differ from the checkpoint's.
    """
    changed = changed_keys(checkpoint.state["learner"]["config"], config.model_dump(mode="json"), allowed)
    changed |= changed_keys(
        {"data": {"fingerprint": checkpoint.data}, "code": checkpoint.code},
        {"data": {"fingerprint": data}, "code": code_fingerprint(config.own_modules)},
        allowed,
    )
    return refusal(f"checkpoint {checkpoint.path} was made otherwise", changed)


def is_within(key: str, sections: Sequence[str]) -> bool:
    """Whether a dotted key is one of `sections` or lies below one."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
