"""`python -m cluster.scale RUN --rollout-workers N`: changes the number of rollout workers during a run.

    python -m cluster.scale runs/quickstart --rollout-workers 4

The number is written to a small file in the run's folder (`desired.json`), which the run polls about every second. This
works wherever the folder is visible: on the same machine, through a shared file system, or on the driver's node (for a
job whose folder is on the head's disk: `ray attach cluster/gpu.yaml`, `kubectl exec`, ...). Workers without room stay
pending, which makes an autoscaler start nodes; surplus workers finish their groups first. A resumed run keeps the
number, unless it is resumed with another cluster.rollout_workers.
Exit codes: 0 written, 2 invalid arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from configs import exits
from configs.commands import command
from configs.output import protect_output
from configs.paths import path_argument
from configs.schema import MAX_ROLLOUT_WORKERS, ClusterConfig, RunConfig
from configs.section import Section
from locus.common.files import write_whole

FILE = "desired.json"
MAX_BYTES = 4096
LOOK_SECONDS = 1.0


class ScaleError(ValueError):
    """The number of workers cannot be changed; the message says why."""


class Desired(Section):
    """The content of `desired.json`."""

    rollout_workers: int = Field(strict=True)
    """The requested number."""
    configured: int = Field(strict=True)
    """cluster.rollout_workers of the run at the time of the request."""
    asked_at: float
    """Seconds since the epoch: makes a repeated request for the same number a new one."""


class DesiredFile:
    """A run's view of its `desired.json`."""

    def __init__(self, folder: Path, cluster: ClusterConfig) -> None:
        self._path, self._cluster = folder / FILE, cluster
        self._seen: bytes | None = None
        self._looked = -LOOK_SECONDS

    def look(self, now: float) -> int | None:
        """The number requested since the last look; None without a new request, or if the last look was just now.

        The first look also returns a request to an earlier process of the run with the same cluster.rollout_workers.
        `now` is the time of a monotonic clock.

        Raises:
            ScaleError: an invalid file, reported once.
        """
        if now - self._looked < LOOK_SECONDS:
            return None
        first, self._looked = self._looked < 0, now
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            content, fault = str(error).encode(), f"{self._path} cannot be read: {error}"
        else:
            fault = ""
        if content == self._seen:
            return None
        self._seen = content
        if fault:
            raise ScaleError(fault)
        desired = parsed(content, self._path)
        if first and desired.configured != self._cluster.rollout_workers:
            return None
        check_number(desired.rollout_workers, self._cluster)
        return desired.rollout_workers


def parsed(content: bytes, path: Path) -> Desired:
    """The parsed content of a file; raises ScaleError unless this module wrote it."""
    try:
        return Desired.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        again = command("cluster.scale", path.parent, "--rollout-workers", "2")
        raise ScaleError(
            f"{path} is invalid ({where}: {first['msg']}); write it with {again} (or another number)"
        ) from error


def check_number(number: int, cluster: ClusterConfig) -> None:
    """Raise ScaleError for a number that the run would not accept."""
    if not cluster.min_rollout_workers <= number <= MAX_ROLLOUT_WORKERS:
        raise ScaleError(
            f"--rollout-workers: expected {cluster.min_rollout_workers} (cluster.min_rollout_workers) to "
            f"{MAX_ROLLOUT_WORKERS}, got {number}"
        )


def ask(run: Path, number: int) -> None:
    """Write a run's `desired.json` atomically.

    Raises:
        ScaleError: there is no such run, nothing to scale, or the number is out of range.
    """
    stored = run / "config.yaml"
    if not stored.is_file():
        raise ScaleError(f"RUN: expected the folder of a run, such as runs/quickstart, but {stored} does not exist")
    try:
        config = RunConfig.model_validate(yaml.safe_load(stored.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise ScaleError(f"{stored} is not a configuration that this version can read: {error}") from error
    if config.cluster.mode == "inline":
        raise ScaleError(
            f"{run} runs in a single process (cluster.mode inline), so there is nothing to scale; for "
            "workers, start it with --cluster.mode ray"
        )
    if (run / "summary.json").exists():
        raise ScaleError(f"{run} has finished; there is nothing left to scale")
    check_number(number, config.cluster)
    desired = Desired(rollout_workers=number, configured=config.cluster.rollout_workers, asked_at=time.time())
    write_whole(run / FILE, json.dumps(desired.model_dump()) + "\n", several_writers=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.scale", description="Change the number of rollout workers during a run."
    )
    parser.add_argument("run", type=path_argument, help="folder of the run, such as runs/quickstart")
    parser.add_argument("--rollout-workers", type=int, required=True, metavar="N", help="the new number")
    options = parser.parse_args(arguments)
    try:
        ask(options.run, options.rollout_workers)
    except (ScaleError, OSError) as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST
    print(
        f"{options.run}: {options.rollout_workers} rollout workers requested. The run applies this within seconds, "
        "or when it is resumed; its console and events.jsonl report it."
    )
    return exits.DONE


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
