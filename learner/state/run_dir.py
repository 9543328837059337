"""The folder of a run: made for a new run, checked for a resumed one, and held by one driver at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.commands import resume as how_to_resume
from configs.load import config_hash, to_yaml
from configs.run_files import CONFIG, HEADING, LOCK
from configs.schema import RunConfig
from learner.errors import RunRefused
from learner.state.run_lock import RunLock
from learner.state.training_state import changed_keys, differing_keys, refusal
from locus.common.files import write_whole

SUMMARY = "summary.json"
ADAPTER = "adapter"


class RunFolder:
    """`folder/name` of a configuration, locked while it is open."""

    def __init__(self, config: RunConfig, resume: bool, allowed: Sequence[str] = ()) -> None:
        """Makes the folder and writes the resolved configuration, or checks the one that is to be continued.

        Raises:
            RunRefused: when there is a run already, or none to continue, or it was another one.
            RunInterrupted: when another driver holds it.
        """
        self.path = Path(config.folder) / config.name
        self.changed: tuple[str, ...] = ()
        """Keys in which a resumed run's configuration differs from what it was, without those that only name it."""
        try:
            self._open(config, resume, allowed)
        except OSError as error:
            raise RunRefused(
                f"expected a folder for the run at {self.path} that can be read and written, got: {error.strerror} "
                f"({error.filename}); change that, or name another place with --folder"
            ) from error

    def _open(self, config: RunConfig, resume: bool, allowed: Sequence[str]) -> None:
        if resume:
            self._check(config, allowed)
        else:
            self._refuse_a_second_run()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.path)
        try:
            if not resume:
                self._refuse_a_second_run()  # one that began and ended since we looked
                self.keep(config)
        except BaseException:
            self._lock.close()
            raise

    def keep(self, config: RunConfig) -> None:
        """Writes the resolved configuration."""
        write_whole(self.path / CONFIG, f"{HEADING}{config_hash(config)}\n{to_yaml(config)}")

    def _refuse_a_second_run(self) -> None:
        if not self.path.exists() or not {path.name for path in self.path.iterdir()} - {LOCK}:
            return
        if not (self.path / CONFIG).is_file():
            raise RunRefused(f"{self.path} is not empty and holds no run; choose another --name")
        raise RunRefused(
            f"{self.path} holds a run already; choose another --name, delete it, or continue it with: "
            f"{how_to_resume(self.path)}"
        )

    def _check(self, config: RunConfig, allowed: Sequence[str]) -> None:
        saved, present = _stored(self.path), config.model_dump(mode="json")
        why = refusal(str(self.path / CONFIG), changed_keys(saved, present, allowed))
        if why is not None:
            raise RunRefused(f"--resume: {why}")
        self.changed = _differing(saved, present)

    def close(self) -> None:
        """Lets another process take the folder."""
        self._lock.close()


def continued_by_copy(copy: RunConfig, config: RunConfig) -> str:
    """The sentence that says which run is continued where only a copy of a configuration names it.

    Args:
        copy: what the file says, which some run wrote and which lies in no run's folder.
        config: the same with the flags over it.

    Raises:
        RunRefused: when the run in that folder does not have this configuration: the copy may be another one's.
    """
    run = Path(config.folder) / config.name
    saved = _stored(run)
    differing = _differing(saved, copy.model_dump(mode="json"))
    if differing and _differing(saved, config.model_dump(mode="json")):
        raise RunRefused(
            f"--resume: the configuration is a copy of one that a run wrote, which names {run}, but the run there has "
            f"another one ({', '.join(differing)}), so it may be the wrong run. Nothing was changed. "
            f"Continue the right one by the {CONFIG} in its own folder; the one in {run}: {how_to_resume(run)}"
        )
    return f"The configuration is a copy of that of {run}; the run in that folder is continued."


def _stored(run: Path) -> dict[str, Any]:
    """The configuration that a run to be continued has, as JSON."""
    stored = run / CONFIG
    if not stored.is_file():
        raise RunRefused(
            f"--resume: expected the run to continue in {run}, but there is no {stored}. A run that was "
            f"renamed or moved is continued by the {CONFIG} in its own folder"
        )
    try:
        return RunConfig.model_validate(yaml.safe_load(stored.read_text(encoding="utf-8"))).model_dump(mode="json")
    except (yaml.YAMLError, ValueError) as error:
        raise RunRefused(f"--resume: {stored} is not a configuration that this version reads: {error}") from error


def _differing(saved: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that differ, without those that only name the run."""
    return tuple(key for key in differing_keys(saved, present) if key not in ("name", "folder"))
