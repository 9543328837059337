"""The tasks of a run: the training set and the held-out set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from configs.commands import command
from configs.data_methods import DataMethod
from configs.reward_regions import named_regions
from configs.schema import ManifestData, RunConfig, ShapesData
from configs.text import counted
from editing.editors.base import EditorError
from editing.editors.load import resolve_editor
from editing.manifest import FaultyLines, ManifestDataset, ManifestError
from editing.manifest.packed import PackedManifest
from editing.manifest.repeats import split
from editing.remarks import of_manifest, of_overlap
from editing.resize import Fit, resize_task
from editing.shapes.dataset import ShapesDataset
from editing.task import EditTask, TaskSource

CHECKED = ".checked"
"""Folder beside the runs that caches the results of manifest checks; it may be deleted at any time."""


@dataclass(frozen=True)
class Tasks:
    """The two disjoint task sources of a run.

    Attributes:
        train: what is trained on.
        held_out: what is measured on.
        faults: the lines that were skipped, by the configuration key that names the manifest: `data.path`, and
            `data.held_out_path` where there is one. The benchmark has no such keys.
        remarks: notifications about the data, a sentence each: masks that may lie in the wrong place, images
            that stand in several lines or are both trained and measured on.
    """

    train: TaskSource
    held_out: TaskSource
    faults: Mapping[str, FaultyLines] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def sources_only(self) -> Tasks:
        """The tasks without faults and remarks: what other processes of the run are given."""
        return Tasks(self.train, self.held_out)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Equal exactly when two runs train and evaluate on the same tasks."""
        return {"train": self.train.fingerprint, "held_out": self.held_out.fingerprint}


class ResizedTasks:
    """Tasks `indices` of another source, resized to about `side`² pixels and to a multiple of the token size."""

    def __init__(self, source: TaskSource, indices: Sequence[int], side: int | None, multiple: int) -> None:
        self.source, self.indices, self.side, self.multiple = source, indices, side, multiple
        # A group's task is requested several times in a row, and decoding a photograph takes 0.1 s.
        self._task = lru_cache(maxsize=2)(self._load)

    def __reduce__(self) -> tuple[type[ResizedTasks], tuple[object, ...]]:
        return ResizedTasks, (self.source, self.indices, self.side, self.multiple)  # without the decoded task

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> EditTask:
        return self._task(index)

    def _load(self, index: int) -> EditTask:
        return resize_task(self.source[self.indices[index]], self.side, self.multiple)

    @property
    def fingerprint(self) -> str:
        what = f"{self.source.fingerprint}/{list(self.indices)}/{self.side}/{self.multiple}"
        return hashlib.sha256(what.encode()).hexdigest()


def pixel_multiple(editor_path: str) -> int:
    """Height and width must be multiples of this: the VAE's factor times the 2×2 packing.

    Raises:
        EditorError: when the folder has no such VAE.
    """
    path = resolve_editor(editor_path) / "vae" / "config.json"
    try:
        levels = len(json.loads(path.read_text(encoding="utf-8"))["block_out_channels"])
    except (OSError, ValueError, KeyError) as error:
        raise EditorError(
            f"editor.path: expected a model folder in diffusers format, but {path} cannot be read ({error}); "
            "download the model first and give its folder."
        ) from error
    return 1 << levels


def open_tasks(config: RunConfig) -> Tasks:
    """The configured training and held-out tasks.

    Raises:
        ManifestError: when a manifest is unreadable, too many of its lines are faulty, or training lines lack the
            target, ranked edits or region that a reward or the method needs.
        TaskError: an image in `data.photo_folder` is faulty.
    """
    data = config.data
    if isinstance(data, ShapesData):
        method = config.algorithm
        ranked = isinstance(method, DataMethod) and method.given == "pair"
        return Tasks(
            ShapesDataset("train", data.train_tasks, data.seed, data.photo_folder, data.mask_margin, ranked),
            ShapesDataset(data.held_out_split, data.held_out_tasks, data.seed, data.photo_folder, data.mask_margin),
        )
    multiple = pixel_multiple(config.editor.path)
    fit = Fit(data.resolution, multiple, "half" in config.token_masks.model_dump().values())
    cache = Path(config.folder) / CHECKED
    train = _open_manifest(data, data.path, cache, fit)
    if data.held_out_path is not None:
        _refuse_missing(config, train, range(len(train)))
        held_out = _open_manifest(data, data.held_out_path, cache, fit)
        remarks = [
            *of_manifest("data.path", train, _check(data, train)),
            *of_manifest("data.held_out_path", held_out, _check(data, held_out)),
            *of_overlap("data.held_out_path", train.items, held_out.items),
        ]
        return Tasks(
            ResizedTasks(PackedManifest(train), range(len(train)), data.resolution, multiple),
            ResizedTasks(PackedManifest(held_out), range(len(held_out)), data.resolution, multiple),
            {"data.path": _faulty(data, train), "data.held_out_path": _faulty(data, held_out)},
            tuple(remarks),
        )
    kept = len(train) - round(len(train) * data.held_out_fraction)
    if data.held_out_fraction > 0:
        kept = min(kept, len(train) - 1)
    if kept < 1:
        raise ManifestError(
            f"data.path: {data.path} has {counted(len(train), 'valid task')}, too few to hold out "
            f"data.held_out_fraction = {data.held_out_fraction} of them; add tasks or set it to 0"
        )
    trained, held = split(train.items, len(train) - kept)
    _refuse_missing(config, train, trained)
    remarks = [
        *of_manifest("data.path", train, _check(data, train)),
        *of_overlap("data.held_out_fraction", [train.items[i] for i in trained], [train.items[i] for i in held]),
    ]
    packed = PackedManifest(train)
    return Tasks(
        ResizedTasks(packed, trained, data.resolution, multiple),
        ResizedTasks(packed, held, data.resolution, multiple),
        {"data.path": _faulty(data, train)},
        tuple(remarks),
    )


def _open_manifest(data: ManifestData, path: str, cache: Path, fit: Fit) -> ManifestDataset:
    return ManifestDataset(
        Path(path),
        mask_polarity=data.mask_polarity,
        max_faulty_fraction=data.max_faulty_fraction,
        follow_links=data.follow_links,
        cache_folder=cache,
        fit=fit,
    )


def _check(data: ManifestData, manifest: ManifestDataset) -> str:
    """The command that checks a manifest as the run does."""
    polarity = ["--mask-polarity", data.mask_polarity] if data.mask_polarity else []
    links = ["--follow-links"] if data.follow_links else []
    return command("editing.validate", manifest.path, *polarity, *links)


def _faulty(data: ManifestData, manifest: ManifestDataset) -> FaultyLines:
    return FaultyLines(str(manifest.path), manifest.faults, f"{_check(data, manifest)} --all-faults")


def _refuse_missing(config: RunConfig, train: ManifestDataset, indices: Sequence[int]) -> None:
    # Otherwise the run would stop at the first such task, perhaps hours later.
    method, records = config.algorithm, [train.items[index].record for index in indices]
    for name in named_regions(method, config.rewards):
        lines = [record.line for record in records if name not in record.regions]
        if lines:
            raise ManifestError(
                f"rewards.regions: {name!r} must be a region of every training line, but {len(lines)} of "
                f"{len(indices)} in {train.path} have none (the first is line {lines[0]}); add it to their regions, as "
                "a black mask where the image has nothing of it"
            )
    if config.rewards.weights.get("edit_psnr", 0) != 0:
        found = [record.line for record in records if record.target is None]
        key, needs, way_out = "rewards.weights: edit_psnr", "a target", "add targets, or set its weight to 0"
    elif isinstance(method, DataMethod) and method.given == "target":
        found = [record.line for record in records if record.target is None]
        key, needs = f"algorithm.type: {method.type}", "a target"
        way_out = 'write "target": "wanted.png" there, or leave these lines out'
    elif isinstance(method, DataMethod):
        found = [record.line for record in records if not record.ranked]
        key, needs = f"algorithm.type: {method.type}", "ranked edits"
        way_out = 'write "ranked": ["best.png", ..., "worst.png"] there, or leave these lines out'
    else:
        return
    if found:
        raise ManifestError(
            f"{key} needs {needs} in every training line, but {len(found)} of {len(indices)} in {train.path} have "
            f"none (the first is line {found[0]}); {way_out}"
        )
