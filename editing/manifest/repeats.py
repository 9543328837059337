"""Images shared by several lines: counted, and kept on one side of the held-out split.

An image is the same where all its pixels are, in whatever file they were saved; one that was scaled or compressed with
a loss is another.
"""

from collections.abc import Sequence

from editing.manifest.dataset import CheckedRecord


def image_groups(items: Sequence[CheckedRecord]) -> list[list[int]]:
    """Indices of the tasks of each image, in the order in which images first appear."""
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.source_digest, []).append(index)
    return list(groups.values())


def repeated(items: Sequence[CheckedRecord]) -> list[int]:
    """Indices of the tasks that an earlier line has already: the same image, mask and instruction."""
    seen: set[tuple[str, str, str]] = set()
    found = []
    for index, item in enumerate(items):
        key = (item.source_digest, item.mask_digest, item.record.instruction)
        if key in seen:
            found.append(index)
        seen.add(key)
    return found


def split(items: Sequence[CheckedRecord], held_out: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out: the last `held_out` tasks, with all tasks of an image on one side.

    Images are taken from the last to the first while they fit; if none fits, the one with the fewest tasks. If that is
    more than half of all tasks, there are too few images, and the last tasks are held out regardless of images.

    Ten tasks of ten images and `held_out` 1 hold out the last one; twelve tasks, three on each of four images, the
    last image's three.
    """
    if not held_out:
        return list(range(len(items))), []
    groups = image_groups(items)
    chosen: list[int] = []
    for group in reversed(groups):
        if len(chosen) + len(group) <= held_out:
            chosen += group
    if not chosen:
        smallest = min(reversed(groups), key=len)
        chosen = smallest if 2 * len(smallest) <= len(items) else list(range(len(items) - held_out, len(items)))
    out = set(chosen)
    return [index for index in range(len(items)) if index not in out], sorted(out)


def shared(train: Sequence[CheckedRecord], held_out: Sequence[CheckedRecord]) -> int:
    """Number of held-out tasks whose image is also trained on."""
    trained = {item.source_digest for item in train}
    return sum(item.source_digest in trained for item in held_out)
