"""What is to be edited: one picture, one instruction, one mask.

`EditTask` is the only form in which data enters the system. It checks itself when it is made, so code
behind it never asks again whether sizes agree. Mask polarity is in the name: `edit_mask` is True where
the picture may change.
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
"""In the sentence of latents or pixels that are no picture, whichever process says so."""


class NotFinite(ArithmeticError):
    """Latents, or the pixels decoded from them, are not finite; as bytes they would be a picture like any other."""


class TaskError(ValueError):
    """A task, or a piece of one, is not what it must be; the message says what was expected and seen."""


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def _check_image(value: object, what: str) -> tuple[int, int]:
    if not (isinstance(value, np.ndarray) and value.dtype == np.uint8):
        raise TaskError(f"{what} must be a uint8 array [H, W, 3]; seen {_describe(value)}.")
    if value.ndim != 3 or value.shape[2] != 3 or 0 in value.shape:
        raise TaskError(f"{what} must be a uint8 array [H, W, 3] of at least one pixel; seen {_describe(value)}.")
    return value.shape[0], value.shape[1]


def _check_mask(value: object, size: tuple[int, int], what: str) -> None:
    if not (isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == size):
        raise TaskError(f"{what} must be a bool array {list(size)}, the size of the source; seen {_describe(value)}.")


@dataclass(frozen=True, eq=False)
class EditTask:
    """One editing task, valid by construction.

    Attributes:
        task_id: unique within its source; one line, not empty.
        source: uint8 [H, W, 3].
        edit_mask: bool [H, W], True = editable; at least one pixel is True.
        instruction: what to do, as a person would write it; not empty.
        target: the wanted picture, uint8 [H, W, 3], where one is known.
        caption: a description of the wanted picture, where one is known.
        regions: further named masks, each bool [H, W]; they may be empty and may overlap.
        meta: anything the source wants to carry along (the core never looks inside).

    Raises:
        TaskError: when a field breaks one of these rules.
    """

    task_id: str
    source: Image
    edit_mask: PixelMask
    instruction: str
    target: Image | None = None
    caption: str | None = None
    regions: Mapping[str, PixelMask] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.task_id, str) or not self.task_id.strip() or not self.task_id.isprintable():
            raise TaskError(f"task_id must be one printable, non-empty line; seen {_describe(self.task_id)}.")
        name = f"task {self.task_id}"
        size = _check_image(self.source, f"{name}: source")
        _check_mask(self.edit_mask, size, f"{name}: edit_mask")
        if not self.edit_mask.any():
            raise TaskError(f"{name}: edit_mask has no editable pixel; at least one must be True (True = editable).")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise TaskError(f"{name}: instruction must be a non-empty text; seen {_describe(self.instruction)}.")
        if self.caption is not None and not (isinstance(self.caption, str) and self.caption.strip()):
            raise TaskError(f"{name}: caption must be a non-empty text or None; seen {_describe(self.caption)}.")
        if self.target is not None and _check_image(self.target, f"{name}: target") != size:
            raise TaskError(
                f"{name}: target must have the size of the source, {list(size)}; seen {list(self.target.shape[:2])}."
            )
        for region, mask in self.regions.items():
            _check_mask(mask, size, f"{name}: region {region!r}")

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.source.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.source.shape[1])


class TaskSource(Protocol):
    """An indexed, unchanging set of tasks."""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that defines the data: equal fingerprints mean equal tasks."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EditTask:
        """The task at 0 <= index < len(self); raises IndexError outside, TaskError when it went bad."""
        ...
