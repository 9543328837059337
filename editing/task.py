"""The editing task: one image, one instruction, one mask.

`EditTask` is the only form in which data enters the system. It validates itself on construction, so code
behind it never checks again whether sizes agree. Mask polarity is in the name: `edit_mask` is True where
the image may change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""uint8 [H, W, 3], sRGB."""
PixelMask = NDArray[np.bool_]
"""bool [H, W]; for an edit mask True means editable."""


NOT_FINITE = "contain NaN or infinity"
"""Part of every message about latents or pixels that are not finite, in every process."""


class NotFinite(ArithmeticError):
    """Latents, or the pixels decoded from them, are not finite; as bytes they would pass for a valid image."""


class TaskError(ValueError):
    """An invalid task, or part of one; the message says what was expected and what it got."""


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def _check_image(value: object, what: str) -> tuple[int, int]:
    if not (isinstance(value, np.ndarray) and value.dtype == np.uint8):
        raise TaskError(f"{what}: expected a uint8 array [H, W, 3], got {_describe(value)}.")
    if value.ndim != 3 or value.shape[2] != 3 or 0 in value.shape:
        raise TaskError(f"{what}: expected a uint8 array [H, W, 3] of at least one pixel, got {_describe(value)}.")
    return value.shape[0], value.shape[1]


def _check_mask(value: object, size: tuple[int, int], what: str) -> None:
    if not (isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == size):
        raise TaskError(f"{what}: expected a bool array {list(size)}, the size of the source, got {_describe(value)}.")


@dataclass(frozen=True, eq=False)
class EditTask:
    """One editing task, valid by construction.

    Attributes:
        task_id: unique within its source; one line, not empty.
        source: uint8 [H, W, 3].
        edit_mask: bool [H, W], True = editable; at least one pixel is True.
        instruction: what to do, in natural language; not empty.
        target: the desired image, uint8 [H, W, 3], if known.
        caption: a description of the desired image, if known.
        ranked: existing edits, each uint8 [H, W, 3], the best first; none, or at least two.
        regions: further named masks, each bool [H, W]; they may be empty and may overlap.
        meta: arbitrary data of the task source (never read by the core).

    Raises:
        TaskError: a field violates one of these rules.
    """

    task_id: str
    source: Image
    edit_mask: PixelMask
    instruction: str
    target: Image | None = None
    caption: str | None = None
    regions: Mapping[str, PixelMask] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    ranked: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.task_id, str) or not self.task_id.strip() or not self.task_id.isprintable():
            raise TaskError(f"task_id: expected one printable, non-empty line, got {_describe(self.task_id)}.")
        name = f"task {self.task_id}"
        size = _check_image(self.source, f"{name}: source")
        _check_mask(self.edit_mask, size, f"{name}: edit_mask")
        if not self.edit_mask.any():
            raise TaskError(f"{name}: edit_mask has no editable pixel; at least one must be True (True = editable).")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise TaskError(f"{name}: instruction: expected a non-empty text, got {_describe(self.instruction)}.")
        if self.caption is not None and not (isinstance(self.caption, str) and self.caption.strip()):
            raise TaskError(f"{name}: caption: expected a non-empty text or None, got {_describe(self.caption)}.")
        if self.target is not None and _check_image(self.target, f"{name}: target") != size:
            raise TaskError(
                f"{name}: target: expected the size of the source, {list(size)}, got {list(self.target.shape[:2])}."
            )
        self._check_ranked(size)
        for region, mask in self.regions.items():
            _check_mask(mask, size, f"{name}: region {region!r}")

    def _check_ranked(self, size: tuple[int, int]) -> None:
        name = f"task {self.task_id}"
        if len(self.ranked) == 1:
            raise TaskError(f"{name}: ranked: expected at least two edits, the best first, got one.")
        for place, edit in enumerate(self.ranked):
            if (seen := _check_image(edit, f"{name}: ranked[{place}]")) != size:
                raise TaskError(
                    f"{name}: ranked[{place}]: expected the size of the source, {list(size)}, got {list(seen)}."
                )

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.source.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.source.shape[1])


class TaskSource(Protocol):
    """An indexed, immutable set of tasks."""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that defines the data: equal fingerprints mean equal tasks."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EditTask:
        """The task at 0 <= index < len(self); raises IndexError outside, TaskError if its files have changed."""
        ...
