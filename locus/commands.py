"""The commands of `locus`, each a module that `python -m` runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """One command: the module that it runs, what it does, and whether it takes the flags of a run."""

    module: str
    does: str
    run_flags: bool = False


COMMANDS: Mapping[str, Command] = {
    "train": Command("learner.main", "train an editor; without flags the quickstart", run_flags=True),
    "infer": Command("learner.infer", "edit one image with a trained editor"),
    "audit": Command("learner.audit", "prove the promises of a run again, from its event log"),
    "validate": Command("editing.validate", "check a manifest"),
    "score": Command("rewards.score", "score edits in files"),
    "calibrate": Command("rewards.calibrate", "measure the reliability of judges"),
    "serve": Command("rewards.service", "serve the reward pool over HTTP", run_flags=True),
    "doctor": Command("cluster.doctor", "check every machine before a run", run_flags=True),
    "scale": Command("cluster.scale", "change the number of rollout workers of a running run"),
    "supervise": Command("cluster.supervise", "submit a run to a Ray cluster until it is done", run_flags=True),
    "resume-or-start": Command(
        "cluster.resume_or_start", "train, with --resume if something was saved", run_flags=True
    ),
    "ablation": Command("evaluation.ablation", "tables: rows over seeds, all methods, what needs no training"),
    "tune": Command("evaluation.tune", "tune rows of the ablation by the same budget"),
    "speed": Command("evaluation.speed", "measure the system's overhead beyond the necessary work"),
    "photos": Command("evaluation.photos", "make a small data set of real photographs"),
    "pretrain": Command("editing.shapes.pretrain", "train the embedded base editor again"),
    "completion": Command("locus.completion", "print a completion script for bash, zsh or fish"),
}
