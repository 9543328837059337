"""Edits in files: a source, what was asked for, and images that some editor made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editing.images import decode_image, read_file
from editing.manifest.faults import Fault, grouped
from editing.manifest.lines import Header, Record, parse_header, parse_object, parse_record
from editing.manifest.paths import Root
from editing.manifest.text import read_lines
from editing.masks import MaskPolarity, decode_rle, load_mask_png, to_edit_mask
from editing.task import EditTask, PixelMask, TaskError

MANIFEST = "manifest.jsonl"


class EditsError(ValueError):
    """Edits cannot be read; one sentence per fault."""


@dataclass(frozen=True)
class EditFiles:
    """The edits of one source under one instruction, still in files; without a mask everything may change."""

    name: str
    source: Path
    instruction: str
    edited: tuple[Path, ...]
    mask: Path | None = None
    mask_rle: Mapping[str, Any] | None = None
    polarity: MaskPolarity = "edit_is_white"
    target: Path | None = None
    caption: str | None = None

    @property
    def masked(self) -> bool:
        """Whether it is known what was not to change."""
        return self.mask is not None or self.mask_rle is not None

    def load(self) -> tuple[EditTask, NDArray[np.uint8]]:
        """The task, and its edits uint8 [G, H, W, 3].

        Raises:
            TaskError: for files that are missing, damaged, or not of the source's size.
        """
        source = decode_image(read_file(self.source), f"source {self.source}")
        mask: PixelMask = np.ones(source.shape[:2], dtype=np.bool_)
        if self.mask is not None:
            mask = to_edit_mask(load_mask_png(self.mask), self.polarity)
        elif self.mask_rle is not None:
            mask = to_edit_mask(decode_rle(self.mask_rle, *source.shape[:2]), self.polarity)
        task = EditTask(
            task_id=self.name,
            source=source,
            edit_mask=_sized(mask, source, f"mask {self.mask}"),
            instruction=self.instruction,
            target=None if self.target is None else _image(self.target, source, "target"),
            caption=self.caption,
        )
        return task, np.stack([_image(path, source, "edited") for path in self.edited])


def _image(path: Path, source: NDArray[np.uint8], role: str) -> NDArray[np.uint8]:
    return _sized(decode_image(read_file(path), f"{role} {path}"), source, f"{role} {path}")


def _sized(image: NDArray[Any], source: NDArray[np.uint8], name: str) -> NDArray[Any]:
    if image.shape[:2] != source.shape[:2]:
        (height, width), (h, w) = source.shape[:2], image.shape[:2]
        raise TaskError(
            f"{name} must have the size of the upright source, {width} × {height}; it has {w} × {h}. "
            "Resize one of the two."
        )
    return image


def read_manifest(place: Path, polarity: MaskPolarity | None = None, follow_links: bool = False) -> list[EditFiles]:
    """The edits of a manifest whose lines say `edited`, grouped by source, mask and instruction; each decoded once.

    The lines are those that training reads (`editing.manifest.lines`), but `mask` may be missing and `edited` may
    not. What was made of one source under one instruction is one group, in one line or in several.

    Args:
        place: the JSONL file, or a folder that has a manifest.jsonl.
        polarity: of the masks of lines that state none, where the header does not either.
        follow_links: whether links may lead out of the manifest's folder.

    Raises:
        EditsError: when there is no such file, or with the faulty lines, grouped by reason.
    """
    path = place / MANIFEST if place.is_dir() else place
    try:
        lines = read_lines(path)
    except TaskError as error:
        raise EditsError(
            f"{error} Expected a JSONL file of lines such as "
            '{"source": "a.png", "mask": "m.png", "instruction": "...", "edited": ["1.png", "2.png"]}'
        ) from error
    stated, root = _header(path, lines, polarity, follow_links)
    records: list[Record] = []
    faults: list[Fault] = []
    for number, text in lines:
        try:
            record = parse_record(parse_object(text), number, root, stated, needs_mask=False)
            if not record.edited:
                raise TaskError("the key 'edited' is missing: the image or images that were made of the source.")
            _files(record, record.edited).load()
            records.append(record)
        except TaskError as error:
            faults.append(Fault(number, None, str(error)))
    if faults or not records:
        shown = "".join(f"\n  {sentence}" for sentence in grouped(faults)) or " there is no line with edits."
        raise EditsError(f"{path}: expected edits that can be read;{shown}")
    return _grouped(records)


def _header(
    path: Path, lines: list[tuple[int, bytes]], polarity: MaskPolarity | None, follow_links: bool
) -> tuple[MaskPolarity | None, Root]:
    """The polarity that is stated for all lines and the folder of their paths; takes the header from the lines."""
    header = Header()
    try:
        if lines and b'"locus_manifest"' in lines[0][1]:
            header = parse_header(parse_object(lines.pop(0)[1]))
    except TaskError as error:
        raise EditsError(f"{path}, header: {error}") from error
    if header.mask_polarity is not None and polarity not in (None, header.mask_polarity):
        raise EditsError(
            f"{path}: its header says mask_polarity {header.mask_polarity}, the argument says {polarity}; "
            "they must agree. Leave the argument out or correct the header."
        )
    try:
        return header.mask_polarity or polarity, Root.of(path, header.root, None, follow_links)
    except TaskError as error:
        raise EditsError(f"{path}: {error}") from error


def _grouped(records: Sequence[Record]) -> list[EditFiles]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        mask = repr(record.mask_rle) if record.mask is None else record.mask
        key = (record.source, record.instruction, mask, record.polarity, record.target, record.caption)
        groups.setdefault(key, []).append(record)
    return [_files(group[0], [path for record in group for path in record.edited]) for group in groups.values()]


def _files(record: Record, edited: Sequence[Path]) -> EditFiles:
    return EditFiles(
        record.task_id,
        record.source,
        record.instruction,
        tuple(edited),
        record.mask,
        record.mask_rle,
        record.polarity,
        record.target,
        record.caption,
    )
