"""A manifest as a `TaskSource`: every line is validated on opening, tasks are decoded on access."""

import hashlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from editing.images import MAX_PIXELS, Decoded, decode, decode_image, read_file
from editing.manifest.cache import CheckCache, Checked, stamps_of
from editing.manifest.faults import Fault, grouped
from editing.manifest.lines import Header, Record, parse_header, parse_object, parse_record, region_field
from editing.manifest.notes import Note
from editing.manifest.paths import Root
from editing.manifest.text import read_lines
from editing.masks import POLARITIES, MaskPolarity, decode_rle, load_mask_png, looks_row_major, to_edit_mask
from editing.resize import Fit, part_is_lost
from editing.task import EditTask, PixelMask, TaskError

BATCH = 32
"""Lines that a thread checks at a time: dispatching one takes as long as a cache lookup."""

INVERTED_FRACTION = 0.95
"""A median editable share above this indicates that the polarity is probably inverted."""


class ManifestError(ValueError):
    """A manifest cannot be used; the message says why, `faults` holds every faulty line."""

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(frozen=True)
class CheckedRecord:
    """A validated line; its images have been decoded once."""

    record: Record
    digests: Mapping[str, str]
    """sha256 of each file by field name, as of the check."""
    height: int
    width: int
    editable: float
    source_digest: str
    """Digest of the source's pixels as edited: equal for equal pixels in other files."""
    mask_digest: str
    """The same of the edit mask's."""
    notes: tuple[Note, ...] = ()


def pixel_digest(pixels: NDArray[Any]) -> str:
    """BLAKE2b-64 (hex) of an array and its shape."""
    shape = "x".join(map(str, pixels.shape)).encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8, person=shape[:16]).hexdigest()


def _load(
    record: Record, max_pixels: int, expected: Mapping[str, str] | None
) -> tuple[EditTask, dict[str, str], tuple[Note, ...]]:
    """The task of a record, the digests of its files and how they were read.

    With `expected` digests, any other is an error.
    """
    digests: dict[str, str] = {}

    def read(field: str, path: Path) -> bytes:
        data = read_file(path, max_pixels)
        digests[field] = hashlib.sha256(data).hexdigest()
        if expected is not None and digests[field] != expected[field]:
            raise TaskError(
                f"{field} {path} has changed since the manifest was opened. Start again with the manifest as it is now."
            )
        return data

    decoded = decode(read("source", record.source), f"source {record.source.name!r}", max_pixels)
    source = decoded.image
    size = source.shape[:2]
    if record.mask is not None:
        white = load_mask_png(read("mask", record.mask), max_pixels)
    else:
        assert record.mask_rle is not None
        white = decode_rle(record.mask_rle, *size)
    if white.shape != size:
        raise TaskError(
            f"the mask must have the size of the upright source, {size[1]} × {size[0]}; "
            f"it has {white.shape[1]} × {white.shape[0]}{_as_stored(decoded, white)}."
        )
    edit_mask = to_edit_mask(white, record.polarity)
    if edit_mask.all():
        raise TaskError(
            "the mask makes the whole image editable, so there is nothing outside it to preserve; "
            "exclude at least one pixel from the edit."
        )
    target = None
    if record.target is not None:
        target = decode_image(read("target", record.target), f"target {record.target.name!r}", max_pixels)
    ranked = tuple(
        decode_image(read(f"ranked[{place}]", path), f"ranked[{place}] {path.name!r}", max_pixels)
        for place, path in enumerate(record.ranked)
    )
    for place, edit in enumerate(ranked):
        twin = next((other for other in range(place) if np.array_equal(ranked[other], edit)), None)
        if twin is not None:
            raise TaskError(
                f"ranked: expected different images, got the same at places {twin} and {place}; of equal ones none is "
                "the better."
            )
    regions = {}
    for name, path in record.regions.items():
        regions[name] = load_mask_png(read(region_field(name), path), max_pixels)
        if regions[name].shape != size:
            raise TaskError(
                f"the region {name!r} must have the size of the upright source, {size[1]} × {size[0]}; "
                f"it has {regions[name].shape[1]} × {regions[name].shape[0]}{_as_stored(decoded, regions[name])}."
            )
    task = EditTask(
        task_id=record.task_id,
        source=source,
        edit_mask=edit_mask,
        instruction=record.instruction,
        target=target,
        caption=record.caption,
        ranked=ranked,
        regions=regions,
        meta={"manifest_line": record.line},
    )
    return task, digests, _notes(decoded, record, white)


def _as_stored(decoded: Decoded, white: PixelMask) -> str:
    if decoded.orientation >= 5 and white.shape == decoded.image.shape[1::-1]:
        return (
            f", that of the image as stored, before EXIF orientation {decoded.orientation} is applied: rotate "
            "the mask in the same way"
        )
    return ""


def _notes(decoded: Decoded, record: Record, white: PixelMask) -> tuple[Note, ...]:
    """Notes on how a line was interpreted, if it is ambiguous."""
    height, width = white.shape
    turned, square = decoded.orientation > 1, height == width
    # After a quarter turn, the stored pixels of a non-square image have another size than the mask.
    ambiguous = turned and (square or decoded.orientation < 5)
    found = {
        Note.TURNED: turned,
        Note.TURNED_MASK: ambiguous,
        Note.CONVERTED: decoded.profile is not None,
        Note.ROW_MAJOR: record.mask_rle is not None and looks_row_major(white),
        Note.SQUARE_RLE: record.mask_rle is not None and square,
    }
    return tuple(note for note, holds in found.items() if holds)


def load_task(manifest: Path, record: Record, digests: Mapping[str, str], max_pixels: int) -> EditTask:
    """The task of a checked record; TaskError, with manifest and line, if a file is missing or has changed."""
    try:
        return _load(record, max_pixels, digests)[0]
    except TaskError as error:
        raise TaskError(f"{manifest}, line {record.line} ({record.task_id}): {error}") from error


class ManifestDataset:
    """The tasks of a manifest, in its order; a `TaskSource`.

    Attributes:
        items: the valid lines, as they were when checked.
        faults: the skipped lines.
        fingerprint: sha256 of ids, texts, polarities and the files' contents, independent of their paths.
    """

    def __init__(
        self,
        path: Path | str,
        mask_polarity: MaskPolarity | None = None,
        root: Path | str | None = None,
        max_pixels: int = MAX_PIXELS,
        max_faulty_fraction: float = 0.05,
        follow_links: bool = False,
        cache_folder: Path | None = None,
        fit: Fit | None = None,
    ) -> None:
        """Open a manifest and validate every line.

        Args:
            path: the JSONL file.
            mask_polarity: for lines without their own; must agree with the header's, if any.
            root: folder that the paths are relative to and must stay in. Without it, the header's root, which
                must be inside the manifest's folder; without that, the manifest's folder.
            max_pixels: cap on an image's height × width.
            max_faulty_fraction: share of lines in [0, 1] that may be faulty and skipped.
            follow_links: whether links may lead out of the root, see `editing.manifest.paths.Root`.
            cache_folder: folder for the results, so that lines are checked once; None checks all of them.
            fit: the size at which images are edited, to note masks that lose a part there.

        Raises:
            ManifestError: unreadable, a wrong header, no valid line, too many faulty ones, or a
                polarity that makes nearly all of the median image editable.
        """
        self.path = Path(path)
        self.max_pixels = max_pixels
        if not 0 <= max_faulty_fraction <= 1:
            raise ManifestError(f"max_faulty_fraction: expected a value in [0, 1], got {max_faulty_fraction}.")
        lines = self._read_lines()
        header = self._take_header(lines)
        polarity = self._agreed_polarity(header, mask_polarity)
        try:
            where = Root.of(self.path, header.root, None if root is None else Path(root), follow_links)
        except TaskError as error:
            raise ManifestError(f"{self.path}: {error}") from error
        self.root = where.folder
        self._fit = fit
        cache = CheckCache(
            cache_folder, f"{self.path.resolve()}/{self.root}/{polarity}/{max_pixels}/{follow_links}/{fit}"
        )
        self.items, self.faults = self._check(lines, polarity, where, cache)
        cache.save()
        self._refuse_too_many_faults(len(lines), max_faulty_fraction)
        self._assert_polarity()
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> EditTask:
        """The task, decoded again; TaskError if a file is missing or has changed since the manifest was opened."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"the manifest has tasks 0 to {len(self.items) - 1}; asked for {index}.")
        item = self.items[index]
        return load_task(self.path, item.record, item.digests, self.max_pixels)

    def _read_lines(self) -> list[tuple[int, bytes]]:
        try:
            return read_lines(self.path)
        except TaskError as error:
            raise ManifestError(str(error)) from error

    def _take_header(self, lines: list[tuple[int, bytes]]) -> Header:
        if not lines:
            raise ManifestError(f"{self.path} must have at least one task; it is empty.")
        try:
            fields = parse_object(lines[0][1])
        except TaskError:
            return Header()  # a broken first line is counted as a fault with the others
        if "locus_manifest" not in fields:
            return Header()
        number, _ = lines.pop(0)
        try:
            return parse_header(fields)
        except TaskError as error:
            raise ManifestError(f"{self.path}, line {number} (header): {error}") from error

    def _agreed_polarity(self, header: Header, argument: MaskPolarity | None) -> MaskPolarity | None:
        if argument is not None and argument not in POLARITIES:
            raise ManifestError(f"mask_polarity: expected {' or '.join(POLARITIES)}, got {argument!r}.")
        if argument and header.mask_polarity and argument != header.mask_polarity:
            raise ManifestError(
                f"{self.path}: its header says mask_polarity {header.mask_polarity}, the argument says "
                f"{argument}; they must agree. Leave the argument out or correct the header."
            )
        return argument or header.mask_polarity

    def _check(
        self, lines: list[tuple[int, bytes]], polarity: MaskPolarity | None, root: Root, cache: CheckCache
    ) -> tuple[list[CheckedRecord], tuple[Fault, ...]]:
        def check(entry: tuple[int, bytes]) -> CheckedRecord | Fault:
            number, text = entry
            task_id = None
            try:
                fields = parse_object(text)
                task_id = str(fields["id"]) if isinstance(fields.get("id"), str | int) else None
                record = parse_record(fields, number, root, polarity)
                found = cache.get(text, record.files())
                if found is None:
                    found = self._decoded(record)
                    cache.put(text, found)
            except TaskError as error:
                return Fault(number, task_id, str(error))
            return CheckedRecord(
                record,
                found.digests,
                found.height,
                found.width,
                found.editable,
                found.source_digest,
                found.mask_digest,
                found.notes,
            )

        items: list[CheckedRecord] = []
        faults: list[Fault] = []
        first_use: dict[str, int] = {}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            batches = (lines[start : start + BATCH] for start in range(0, len(lines), BATCH))
            found = pool.map(lambda batch: list(map(check, batch)), batches)
            results: Iterator[CheckedRecord | Fault] = itertools.chain.from_iterable(found)
            if len(lines) > 200 and sys.stderr.isatty():
                bar = Console(stderr=True)
                results = iter(track(results, f"Checking {self.path.name}", len(lines), console=bar))
            for result in results:
                if isinstance(result, Fault):
                    faults.append(result)
                    continue
                record = result.record
                first = first_use.setdefault(record.task_id, record.line)
                if first != record.line:
                    reason = f"ids must be unique; line {first} has the same."
                    faults.append(Fault(record.line, record.task_id, reason))
                else:
                    items.append(result)
        return items, tuple(faults)

    def _decoded(self, record: Record) -> Checked:
        stamps = stamps_of(record.files())  # before reading, so that they detect later changes
        task, digests, notes = _load(record, self.max_pixels, expected=None)
        if self._fit is not None and part_is_lost(task.edit_mask, self._fit):
            notes += (Note.PART_LOST,)
        return Checked(
            stamps,
            digests,
            task.height,
            task.width,
            float(task.edit_mask.mean()),
            pixel_digest(task.source),
            pixel_digest(task.edit_mask),
            notes,
        )

    def _refuse_too_many_faults(self, lines: int, max_faulty_fraction: float) -> None:
        faulty = len(self.faults)
        if self.items and faulty <= max_faulty_fraction * lines:
            return
        shown = "".join(f"\n  {sentence}" for sentence in grouped(self.faults))
        rule = (
            f"at most {max_faulty_fraction:.1%} may be (max_faulty_fraction)"
            if self.items
            else "at least one must be valid"
        )
        raise ManifestError(f"{self.path}: {faulty} of {lines} lines are faulty; {rule}.{shown}", self.faults)

    def _assert_polarity(self) -> None:
        # A polarity stated in a line is deliberate.
        shares = [i.editable for i in self.items if not i.record.own_polarity]
        if not shares or (median := statistics.median(shares)) <= INVERTED_FRACTION:
            return
        stated = next(i for i in self.items if not i.record.own_polarity).record.polarity
        other = next(p for p in POLARITIES if p != stated)
        raise ManifestError(
            f"{self.path}: with mask_polarity {stated}, {median:.1%} of the median image may change "
            f"(more than {INVERTED_FRACTION:.0%}); did you mean {other}? If the masks are right, state "
            "mask_polarity in each line."
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for item in self.items:
            r = item.record
            parts = [r.task_id, r.instruction, r.caption, r.polarity, r.mask_rle, dict(item.digests)]
            digest.update(json.dumps(parts, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()
