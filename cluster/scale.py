"""`python -m cluster.scale RUN --rollout-workers N`: changes the number of rollout workers while the run goes on.

    python -m cluster.scale runs/quickstart --rollout-workers 4

The number goes into a small file in the run's folder (`desired.json`), which the run looks at every second or so. Thus
this works wherever the folder is: on the same machine, through a shared file system, or typed where the driver is (for
a job whose folder is on the head's disk: `ray attach cluster/gpu.yaml`, `kubectl exec`, ...). Workers for which there
is no room yet wait for it, which has an autoscaler start nodes; those too many finish their groups first.
A run that is resumed keeps the number, unless it is resumed with another cluster.rollout_workers.
Exit codes: 0 written, 2 the request is wrong.
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

from common.files import write_whole
from configs import exits
from configs.commands import command
from configs.output import protect_output
from configs.paths import path_argument
from configs.schema import MAX_ROLLOUT_WORKERS, ClusterConfig, RunConfig
from configs.section import Section

FILE = "desired.json"
MAX_BYTES = 4096
LOOK_SECONDS = 1.0


class ScaleError(ValueError):
    """The number of workers cannot be changed like this; the sentence says why."""


class Desired(Section):
    """What `desired.json` holds."""

    rollout_workers: int = Field(strict=True)
    """How many there shall be."""
    configured: int = Field(strict=True)
    """cluster.rollout_workers of the run when this was asked for."""
    asked_at: float
    """Seconds since the epoch: asking again for the same number is a request of its own."""


class DesiredFile:
    """A run's view of its `desired.json`."""

    def __init__(self, folder: Path, cluster: ClusterConfig) -> None:
        self._path, self._cluster = folder / FILE, cluster
        self._seen: bytes | None = None
        self._looked = -LOOK_SECONDS

    def look(self, now: float) -> int | None:
        """The number that was asked for since the last look; None when none was, or the last look was just now.

        The first look also finds what an earlier process of the run was told, if it had the same
        cluster.rollout_workers. `now` is the time of a monotonic clock.

        Raises:
            ScaleError: once for a file that makes no sense.
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
    """What a file says; raises ScaleError when it is none that this module writes."""
    try:
        return Desired.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        again = command("cluster.scale", path.parent, "--rollout-workers", "2")
        raise ScaleError(
            f"{path} makes no sense ({where}: {first['msg']}); write it with {again} (or another number)"
        ) from error


def check_number(number: int, cluster: ClusterConfig) -> None:
    """Raises ScaleError for a number that the run would not take."""
    if not cluster.min_rollout_workers <= number <= MAX_ROLLOUT_WORKERS:
        raise ScaleError(
            f"--rollout-workers: expected {cluster.min_rollout_workers} (cluster.min_rollout_workers) to "
            f"{MAX_ROLLOUT_WORKERS}, got {number}"
        )


def ask(run: Path, number: int) -> None:
    """Writes a run's `desired.json`, whole or not at all.

    Raises:
        ScaleError: when there is no such run, nothing of it to scale, or the number is out of range.
    """
    stored = run / "config.yaml"
    if not stored.is_file():
        raise ScaleError(f"RUN: expected the folder of a run, such as runs/quickstart, but there is no {stored}")
    try:
        config = RunConfig.model_validate(yaml.safe_load(stored.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise ScaleError(f"{stored} is not a configuration that this version reads: {error}") from error
    if config.cluster.mode == "inline":
        raise ScaleError(
            f"{run} runs in one process (cluster.mode inline), so there is nothing to scale; its work is "
            "spread over workers with --cluster.mode ray"
        )
    if (run / "summary.json").exists():
        raise ScaleError(f"{run} has finished; there is nothing to scale any more")
    check_number(number, config.cluster)
    desired = Desired(rollout_workers=number, configured=config.cluster.rollout_workers, asked_at=time.time())
    write_whole(run / FILE, json.dumps(desired.model_dump()) + "\n", several_writers=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.scale", description="Change the number of rollout workers while a run goes on."
    )
    parser.add_argument("run", type=path_argument, help="folder of the run, such as runs/quickstart")
    parser.add_argument("--rollout-workers", type=int, required=True, metavar="N", help="how many there shall be")
    options = parser.parse_args(arguments)
    try:
        ask(options.run, options.rollout_workers)
    except (ScaleError, OSError) as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST
    print(
        f"{options.run}: {options.rollout_workers} rollout workers asked for. The run takes this up within seconds, "
        "or when it is resumed; its console and its events.jsonl say so."
    )
    return exits.DONE


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
