"""Remarks on a run's data, shown before training, one sentence each."""

from collections.abc import Sequence

from editing.manifest.dataset import CheckedRecord, ManifestDataset
from editing.manifest.notes import SUSPICIOUS, Note, counts
from editing.manifest.repeats import image_groups, repeated, shared


def of_manifest(key: str, manifest: ManifestDataset, command: str) -> list[str]:
    """Remarks on the manifest of configuration key `key`; `command` checks it."""
    items, noted = manifest.items, counts(item.notes for item in manifest.items)

    def lines(note: Note) -> str:
        return f"{key}: {noted[note]:,} line{'s' * (noted[note] > 1)}: {note}"

    found = [f"{lines(note)}. Look at the masks: {command} --sheet sheet.html" for note in noted if note in SUSPICIOUS]
    if Note.PART_LOST in noted:
        first = next(item.record.line for item in items if Note.PART_LOST in item.notes)
        found.append(
            f"{lines(Note.PART_LOST)}; the first is line {first}. Raise data.resolution, leave token_masks at "
            "any, or draw thicker masks."
        )
    images, again = len(image_groups(items)), repeated(items)
    if images < len(items):
        found.append(f"{key}: {len(items):,} tasks show {images:,} image{'s' * (images > 1)}.")
    if again:
        tasks = f"{len(again):,} tasks repeat" if len(again) > 1 else "1 task repeats"
        found.append(
            f"{key}: {tasks} an earlier one (the same image, mask and instruction), so that it counts more "
            f"often; the first is line {items[again[0]].record.line}."
        )
    return found


def of_overlap(key: str, train: Sequence[CheckedRecord], held_out: Sequence[CheckedRecord]) -> list[str]:
    """Remarks on images in both the training and the held-out set; `key` decides what is held out."""
    overlap = shared(train, held_out)
    if not overlap:
        return []
    share = (
        "every held-out task shows"
        if overlap == len(held_out)
        else (f"{overlap:,} of {len(held_out):,} held-out tasks show")
    )
    return [
        f"{key}: {share} an image that is trained on, so held-out metrics say little about other images. "
        "Hold out tasks on separate images."
    ]
