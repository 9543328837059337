"""The gallery of a run: one self-contained HTML page that shows what the editor does, before and after."""

from learner.reporting.gallery.observer import GalleryReport
from learner.reporting.gallery.page import Gallery, GalleryGroup, GalleryTask, write_gallery

__all__ = ["Gallery", "GalleryGroup", "GalleryReport", "GalleryTask", "write_gallery"]
