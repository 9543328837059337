"""Every default stands a second time in `defaults.json`, so that none changes by accident.

python -m tests.configs.test_defaults      writes the file again, after a default was changed on purpose
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.schema import ManifestData, RunConfig

FILE = Path(__file__).parent / "defaults.json"


def defaults() -> dict[str, Any]:
    """Of the schema: the whole run, and the other kind of data."""
    manifest = ManifestData(path="needed").model_dump(mode="json", exclude={"path"})
    return {**RunConfig().model_dump(mode="json"), "data of type manifest": manifest}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(written: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """A sentence per key that is new, gone or other."""
    before, after = dict(flat(written)), dict(flat(present))
    return [
        f"{key} is {after.get(key, 'gone')!r}, {FILE.name} says {before.get(key, 'nothing')!r}"
        for key in sorted(before.keys() | after.keys())
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]


def test_no_default_has_changed():
    found = changed(json.loads(FILE.read_text(encoding="utf-8")), defaults())
    assert not found, f"{found}. If that is meant, type: python -m tests.configs.test_defaults"


def test_a_change_is_seen():
    present = defaults()
    one, less, more = (json.loads(json.dumps(present)) for _ in range(3))
    one["learner"]["optimizer"]["lr"] = 1.0
    del less["cluster"]
    more["rewards"]["weights"]["acd"] = 0.5
    assert changed(present, one) == [
        f"learner.optimizer.lr is 1.0, defaults.json says {present['learner']['optimizer']['lr']}"
    ]
    assert len(changed(present, less)) == len(RunConfig().cluster.model_dump())
    assert changed(present, more) == ["rewards.weights.acd is 0.5, defaults.json says 'nothing'"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(defaults(), indent=2) + "\n", encoding="utf-8")
