"""The gallery of a run: one self-contained HTML page that shows what the editor does, before and after."""

from learner.gallery.observer import GalleryReport
from learner.gallery.page import Gallery, GalleryGroup, GalleryTask, write_gallery

__all__ = ["Gallery", "GalleryGroup", "GalleryReport", "GalleryTask", "write_gallery"]
