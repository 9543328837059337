"""What runs leave in their folders, without the training."""

import json
from pathlib import Path

from configs.load import config_hash
from configs.run_files import EVENTS
from learner.state.event_log import EventLog
from learner.state.provenance import code_fingerprint

DATA = {"train": "1a", "held_out": "2b"}


def write_summary(config, base, gain, outcome="trained", first_step=0, step_seconds=1.0, **more):
    """As a run that came to its end; `more` replaces fields."""
    folder = Path(config.folder) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    final = {name: value + gain.get(name, 0.0) for name, value in base.items()}
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "config_hash": config_hash(config),
                "code": code_fingerprint(config.own_modules),
                "data": DATA,
                "first_step": first_step,
                "seconds": {"step": step_seconds, "rollout": 0.6 * step_seconds},
                "base": {"mean": base},
                "final": {"mean": final},
                "gain": {"mean": gain},
                "verdict": {"outcome": outcome, "reasons": []},
                **more,
            }
        )
    )


def write_events(config, *ends, **more):
    """As a run that began, and what else happened to it: (event, fields) each; `more` replaces fields of the first."""
    folder = Path(config.folder) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    began = {
        "step": 0,
        "config_hash": config_hash(config),
        "changed": [],
        "allowed": [],
        "data": DATA,
        "code": code_fingerprint(config.own_modules),
        "seed": config.seed,
        "steps": config.learner.steps,
        "groups_per_step": 2,
        "updates_per_step": 1,
        "group_size": 3,
        "min_valid": 2,
        "staleness": 0,
        "publish_every": 1,
        "checkpoint_every": 1,
        "evaluate_every": 0,
        "train_tasks": 4,
        "held_out_tasks": 2,
        "anew_from": None,
        "refused_checkpoints": [],
        **more,
    }
    for event, fields in (("started", began), *ends):
        with EventLog(folder / EVENTS) as events:  # a log takes nothing after `failed`
            events.write(event, **fields)


DIVERGED = ("failed", {"error": "Diverged", "reason": "the weights grew"})
