"""Configurations of whole runs that take seconds."""

from pathlib import Path
from typing import Any

from configs.layers import merged
from configs.schema import RunConfig


def tiny_run(editor: Path, folder: Path, name: str, overrides: dict[str, Any] | None = None) -> RunConfig:
    """RC-GRPO: four steps of two groups of three on the shapes, in one process; what is measured is what is trained."""
    values: dict[str, Any] = {
        "name": name,
        "folder": str(folder),
        "editor": {"path": str(editor), "device": "cpu", "lora": {"targets": "attention", "rank": 2, "alpha": 4.0}},
        "data": {"type": "shapes", "train_tasks": 6, "held_out_tasks": 3},
        "sampler": {"group_size": 3, "steps": 2, "evaluation_steps": 2},
        "algorithm": {"type": "rc_grpo", "trained_steps": [0, 1], "anchors": 1},
        "rewards": {"weights": {"edit_psnr": 1.0, "background_psnr": 0.5, "acd": 1.0}},
        "learner": {
            "steps": 4,
            "groups_per_step": 2,
            "optimizer": {"lr": 0.01, "warmup_steps": 1, "ema": None, "final_lr_fraction": 0.2},
        },
        "cluster": {"mode": "inline"},
        "checkpoint": {"every": 2},
        "report": {"gallery_tasks": 1, "gallery_groups": 1},
    }
    return RunConfig.model_validate(merged(RunConfig, values, overrides or {}))
