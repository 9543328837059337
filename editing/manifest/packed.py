"""The tasks of a checked manifest in two arrays, shared with every process of a run.

A hundred thousand tasks are some thirty megabytes, which Ray keeps once per node in shared memory; the process that
opened the manifest lets its objects go.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from editing.manifest.dataset import CheckedRecord, ManifestDataset, load_task
from editing.manifest.lines import Record
from editing.task import EditTask

PATHS = ("source", "mask", "target")


class PackedManifest:
    """A `TaskSource` with the tasks of a `ManifestDataset`, in its order, decoded on access."""

    def __init__(self, dataset: ManifestDataset) -> None:
        rows = [_row(item) for item in dataset.items]
        self.path, self.fingerprint, self._max_pixels = dataset.path, dataset.fingerprint, dataset.max_pixels
        self._rows = np.frombuffer(b"".join(rows), dtype=np.uint8)
        self._ends = np.cumsum([len(row) for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> EditTask:
        """The task, decoded again; TaskError if a file is missing or has changed since the manifest was opened."""
        if not 0 <= index < len(self):
            raise IndexError(f"the manifest has tasks 0 to {len(self) - 1}; asked for {index}.")
        start = int(self._ends[index - 1]) if index else 0
        values, digests = json.loads(self._rows[start : int(self._ends[index])].tobytes())
        for name in PATHS:
            values[name] = None if values[name] is None else Path(values[name])
        values["ranked"] = tuple(map(Path, values["ranked"]))
        values["regions"] = {name: Path(path) for name, path in values["regions"].items()}
        return load_task(self.path, Record(**values), digests, self._max_pixels)


def _row(item: CheckedRecord) -> bytes:
    # Existing edits are not part of a task.
    values = {field.name: getattr(item.record, field.name) for field in fields(Record) if field.name != "edited"}
    return json.dumps([values, dict(item.digests)], default=str).encode()
