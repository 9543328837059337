"""The embedded benchmark as a task source."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from editing.shapes.edits import Edit, edit_at, edit_mask, grown, wrong_scene
from editing.shapes.photos import photos_digest
from editing.shapes.scenes import SIZE, paint, to_uint8
from editing.task import EditTask

GENERATOR_VERSION = 1  # increment when the same index would give another image


def edit_task(edit: Edit, task_id: str, mask_margin: int = 0, ranked: bool = False) -> EditTask:
    """The edit as a task, its mask grown by a margin; `meta["edit"]` keeps the ground truth for the verifiable
    score.

    With `ranked`, its ranked edits are the target and a wrong one. There are no more: which of two wrong outcomes, or
    of a wrong one and an untouched image, is the better, nothing here can say.
    """
    target = to_uint8(paint(edit.target_scene))
    return EditTask(
        task_id=task_id,
        source=to_uint8(paint(edit.scene)),
        edit_mask=grown(edit_mask(edit), mask_margin),
        instruction=edit.instruction,
        target=target,
        ranked=(target, to_uint8(paint(wrong_scene(edit)))) if ranked else (),
        meta={"edit": edit},
    )


class ShapesDataset:
    """`length` deterministic tasks of one split; task i does not depend on the length."""

    def __init__(
        self,
        split: str,
        length: int,
        seed: int,
        photo_folder: str | None = None,
        mask_margin: int = 0,
        ranked: bool = False,
    ) -> None:
        """
        Args:
            split, length, seed, photo_folder, mask_margin: see `configs.schema.ShapesData`.
            ranked: whether tasks have ranked edits, which take time to paint.

        Raises:
            TaskError: `photo_folder` has no image, or a faulty one.
        """
        self.split, self.length, self.seed, self.photo_folder = split, length, seed, photo_folder
        self.mask_margin, self.ranked = mask_margin, ranked
        self._photos = None if photo_folder is None else photos_digest(photo_folder, SIZE)
        self._task = lru_cache(maxsize=512)(self._make)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_task"}  # without the painted images

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._task = lru_cache(maxsize=512)(self._make)

    def _make(self, index: int) -> EditTask:
        edit = edit_at(self.split, self.seed, index, self.photo_folder)
        return edit_task(edit, f"shapes-{self.split}-{self.seed}-{index}", self.mask_margin, self.ranked)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> EditTask:
        if not 0 <= index < self.length:
            raise IndexError(f"task {index} of {self.length}")
        return self._task(index)

    @property
    def fingerprint(self) -> str:
        what = f"shapes/{GENERATOR_VERSION}/{self.split}/{self.length}/{self.seed}/{self._photos}/{self.mask_margin}"
        what += "/ranked" * self.ranked
        return hashlib.sha256(what.encode()).hexdigest()
