"""Notes on ambiguous lines: counted by `editing.validate`, and shown on its contact sheet."""

from collections.abc import Iterable
from enum import StrEnum


class Note(StrEnum):
    """A note on how a line was interpreted; the value is its text."""

    TURNED = "image turned upright by its EXIF orientation"
    TURNED_MASK = "mask may be drawn on the image as it is stored, before EXIF turns it (both have the same size)"
    CONVERTED = "colour profile converted to sRGB"
    ROW_MAJOR = "mask_rle looks as if its runs went along the rows (COCO's go down the columns)"
    PART_LOST = "part of the mask is too thin for the size at which the run edits, and is lost there"
    SQUARE_RLE = "mask_rle of a square image: rows and columns cannot be told apart"


SUSPICIOUS = (Note.TURNED_MASK, Note.ROW_MAJOR)
"""Notes which mean that the mask may be misplaced."""


def counts(notes: Iterable[tuple[Note, ...]]) -> dict[Note, int]:
    """Number of lines per note, suspicious ones first; notes without lines are left out."""
    found = [note for of_line in notes for note in of_line]
    order = (*SUSPICIOUS, *(note for note in Note if note not in SUSPICIOUS))
    return {note: found.count(note) for note in order if note in found}
