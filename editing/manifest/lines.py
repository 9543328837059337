"""One line of a manifest: from text to validated fields. No image is opened here.

A manifest is JSONL. Its first line may be a header,

    {"locus_manifest": 1, "mask_polarity": "edit_is_white", "root": "images"}

and every other line is one task:

    {"id": "cat-1", "source": "cat.jpg", "mask": "cat.png", "instruction": "make the cat red"}

with "mask_rle" (COCO) in place of "mask" for run-length masks, and optionally "target", "caption" and its own
"mask_polarity". "ranked" lists existing edits, the best first, for methods that learn from preferences. "regions" names
parts of the image, {"hat": "cat_hat.png"}, white where the part is, whatever the polarity of the mask. "edited" names
existing edits of it, one path or a list; training ignores them.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from configs.reward_regions import BACKGROUND, EDIT
from editing.manifest.paths import Root
from editing.masks import POLARITIES, MaskPolarity
from editing.task import TaskError

RESERVED = (EDIT, BACKGROUND)
HEADER_KEYS = ("locus_manifest", "mask_polarity", "root")
LINE_KEYS = (
    "id",
    "source",
    "mask",
    "mask_rle",
    "instruction",
    "target",
    "caption",
    "mask_polarity",
    "ranked",
    "regions",
    "edited",
)


@dataclass(frozen=True)
class Header:
    """What a manifest states about all its lines; None if unstated."""

    mask_polarity: MaskPolarity | None = None
    root: str | None = None


@dataclass(frozen=True)
class Record:
    """One valid line, whose paths exist inside the root; at most one mask is set.

    `own_polarity`: the line itself states the polarity.
    """

    line: int
    task_id: str
    source: Path
    mask: Path | None
    mask_rle: Mapping[str, Any] | None
    polarity: MaskPolarity
    own_polarity: bool
    instruction: str
    target: Path | None
    caption: str | None
    regions: Mapping[str, Path] = field(default_factory=dict)
    edited: tuple[Path, ...] = ()
    ranked: tuple[Path, ...] = ()

    def files(self) -> dict[str, str]:
        """The task's files, by field."""
        ranked = {f"ranked[{place}]": path for place, path in enumerate(self.ranked)}
        regions = {region_field(name): path for name, path in self.regions.items()}
        named = {"source": self.source, "mask": self.mask, "target": self.target, **ranked, **regions}
        return {name: str(path) for name, path in named.items() if path is not None}


def region_field(name: str) -> str:
    """The field under which the file of a region goes."""
    return f"region {name}"


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        TaskError: not UTF-8, not JSON, not an object, or a duplicate key.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise TaskError(f"the line must be UTF-8; byte {error.start + 1} is not.") from error
    except json.JSONDecodeError as error:
        raise TaskError(f"the line must be one JSON object; {error.msg} at column {error.colno}.") from error
    except TaskError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise TaskError(f"the line must be one JSON object; {error}.") from error
    except RecursionError as error:
        raise TaskError("the line must be one JSON object; it is nested too deeply.") from error
    if not isinstance(value, dict):
        raise TaskError(f"the line must be one JSON object; it is a {type(value).__name__}.")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise TaskError(f"the key {twice!r:.60} must be unique; it appears {keys.count(twice)} times.")
    return result


def parse_header(fields: Mapping[str, Any]) -> Header:
    """The checked header.

    Raises:
        TaskError: an unknown key, version or polarity, or a root that is not text.
    """
    _check_keys(fields, HEADER_KEYS)
    version = fields["locus_manifest"]
    if type(version) is not int or version != 1:
        raise TaskError(f"locus_manifest: expected 1, the only version, got {version!r:.60}.")
    root = fields.get("root")
    if root is not None:
        root = _text(fields, "root")
    return Header(_polarity(fields), root)


def parse_record(
    fields: Mapping[str, Any], line: int, root: Root, default: MaskPolarity | None, needs_mask: bool = True
) -> Record:
    """The checked record of line number `line` (1-based), its paths resolved under `root`.

    A line without "id" is named line-N. Without `needs_mask` a line may have no mask, and then needs no polarity.

    Raises:
        TaskError: an unknown or missing key, a value of the wrong kind, no stated polarity, or a path
            that is absolute, leaves the root (also through a link) or does not exist.
    """
    _check_keys(fields, LINE_KEYS)
    fields = {key: value for key, value in fields.items() if value is not None}  # null means absent
    for key in ("source", "instruction"):
        if key not in fields:
            raise TaskError(f"the key {key!r} is missing.")
    masks = [key for key in ("mask", "mask_rle") if key in fields]
    if len(masks) == 2 or (needs_mask and not masks):
        seen = "both" if masks else "neither"
        raise TaskError(f"line: expected one of 'mask' and 'mask_rle', got {seen}.")
    own = _polarity(fields)
    polarity = own or default or (None if masks else "edit_is_white")
    if polarity is None:
        raise TaskError(
            "mask_polarity is not stated: say edit_is_white or edit_is_black in the line, in a header "
            '{"locus_manifest": 1, "mask_polarity": ...}, or with --mask-polarity (in a run: --data.mask_polarity).'
        )
    mask_rle = fields.get("mask_rle")
    if mask_rle is not None and not isinstance(mask_rle, dict):
        raise TaskError(f"mask_rle: expected an object with size and counts, got {mask_rle!r:.60}.")
    return Record(
        line=line,
        task_id=_task_id(fields, line),
        source=root.file("source", _text(fields, "source")),
        mask=root.file("mask", _text(fields, "mask")) if "mask" in fields else None,
        mask_rle=mask_rle,
        polarity=polarity,
        own_polarity=own is not None,
        instruction=_text(fields, "instruction"),
        target=root.file("target", _text(fields, "target")) if "target" in fields else None,
        caption=_text(fields, "caption") if "caption" in fields else None,
        regions=_regions(fields, root),
        edited=_edited(fields, root),
        ranked=_ranked(fields, root),
    )


def _check_keys(fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise TaskError(f"unknown key {key!r:.60}; {hint}")


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{key}: expected a non-empty text, got {value!r:.60}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{key} must be valid Unicode; it has half of a surrogate pair: {value!r:.60}.") from error
    return value


def _task_id(fields: Mapping[str, Any], line: int) -> str:
    value = fields.get("id")
    if value is None:
        return f"line-{line}"
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise TaskError(f"id: expected one printable, non-empty line or a whole number, got {value!r:.60}.")
    return value


def _polarity(fields: Mapping[str, Any]) -> MaskPolarity | None:
    value = fields.get("mask_polarity")
    if value is None:
        return None
    if value not in POLARITIES:
        raise TaskError(f"mask_polarity: expected {' or '.join(POLARITIES)}, got {value!r:.60}.")
    return cast(MaskPolarity, value)


def _regions(fields: Mapping[str, Any], root: Root) -> dict[str, Path]:
    value = fields.get("regions", {})
    if not isinstance(value, dict) or not all(name.strip() and name.isprintable() for name in value):
        raise TaskError(f'regions: expected an object of names and paths, {{"hat": "hat.png"}}, got {value!r:.60}.')
    for name in RESERVED:
        if name in value:
            raise TaskError(f"regions: {name!r} is what every task has by its mask; give this region another name.")
    return {name: root.file("regions", _text(value, name)) for name in value}


def _edited(fields: Mapping[str, Any], root: Root) -> tuple[Path, ...]:
    value = fields.get("edited", [])
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or ("edited" in fields and not paths):
        raise TaskError(f"edited: expected a path or a list of paths, not empty, got {value!r:.60}.")
    return tuple(root.file("edited", _text({"edited": path}, "edited")) for path in paths)


def _ranked(fields: Mapping[str, Any], root: Root) -> tuple[Path, ...]:
    paths = fields.get("ranked")
    if paths is None:
        return ()
    if not isinstance(paths, list) or len(paths) < 2:
        raise TaskError(
            f'ranked: expected a list of at least two paths, the best edit first, such as ["good.png", "bad.png"], '
            f"got {paths!r:.60}."
        )
    return tuple(root.file("ranked", _text({"ranked": path}, "ranked")) for path in paths)
