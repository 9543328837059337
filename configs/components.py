"""The components of a reward that Locus has: what each rewards, in which range it lies, and up to where it is noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

RANK = "rank"
"""The component of methods that learn from given images: an image's place in the ranking of its group."""
BUILT_IN = (
    "edit_score",
    "editscore_truth",
    "editscore_success_truth",
    "editscore_preservation_truth",
    "edit_psnr",
    "background_psnr",
    "background_ssim",
    "pixel_consistency",
    "acd",
    RANK,
)
"""Components that need no server."""
OF_THE_BENCHMARK = ("edit_score", "editscore_truth", "editscore_success_truth", "editscore_preservation_truth")
"""Those of them that need the ground truth of the embedded benchmark."""
EMBEDDINGS: Mapping[str, Literal["clip", "dino"]] = {
    "clip_text": "clip",
    "clip_direction": "clip",
    "dino_background": "dino",
}
"""Components scored by a local embedding model, and which model that is."""
COMPONENT_KINDS: Mapping[str, Literal["edit", "preservation", "focus", "given"]] = {
    "edit_score": "edit",
    "editscore_truth": "edit",
    "editscore_success_truth": "edit",
    "editscore_preservation_truth": "preservation",
    "edit_psnr": "edit",
    "editscore": "edit",
    "editscore_success": "edit",
    "editscore_preservation": "preservation",
    "qwen_vl": "edit",
    "clip_text": "edit",
    "clip_direction": "edit",
    "background_psnr": "preservation",
    "background_ssim": "preservation",
    "pixel_consistency": "preservation",
    "dino_background": "preservation",
    "acd": "focus",
    RANK: "given",
}
"""What each component rewards: that the edit is made, that everything else is preserved, or where the text attends; or
nothing, of images that are given.

Only an edit reward can teach an edit: the others are largest, or indifferent, where nothing was edited.
"""


class ComponentRange(NamedTuple):
    """The practical range of a component's values, in its own unit; some may lie outside.

    Spreads are judged relative to it: one that is a small share of the range is noise.
    """

    low: float
    high: float
    unit: str

    @property
    def width(self) -> float:
        """`high - low`, above 0."""
        return self.high - self.low


COMPONENT_RANGES: Mapping[str, ComponentRange] = {
    "edit_score": ComponentRange(0.0, 1.0, "share of the truth's probability"),
    "editscore_truth": ComponentRange(0.0, 1.0, "share of the best score"),
    "editscore_success_truth": ComponentRange(0.0, 1.0, "share of the best score"),
    "editscore_preservation_truth": ComponentRange(0.0, 1.0, "share of the best score"),
    "edit_psnr": ComponentRange(10.0, 50.0, "dB"),  # at most 60, of equal regions
    "editscore": ComponentRange(0.0, 1.0, "share of the best score"),
    "editscore_success": ComponentRange(0.0, 1.0, "share of the best score"),
    "editscore_preservation": ComponentRange(0.0, 1.0, "share of the best score"),
    "qwen_vl": ComponentRange(0.0, 1.0, "share of the best score"),
    "clip_text": ComponentRange(0.0, 0.4, "cosine"),  # text and image occupy two cones: a good match has about .3
    "clip_direction": ComponentRange(0.0, 0.5, "cosine"),  # bounds -1 and 1
    "background_psnr": ComponentRange(10.0, 50.0, "dB"),  # at most 60, of equal regions
    "background_ssim": ComponentRange(0.0, 1.0, "SSIM"),
    "pixel_consistency": ComponentRange(0.0, 1.0, "share of the best score"),
    "dino_background": ComponentRange(0.0, 1.0, "cosine"),  # bounds -1 and 1
    "acd": ComponentRange(0.0, 4.0, "multiple of even attention"),  # at most tokens / tokens of the mask
    RANK: ComponentRange(0.0, 1.0, "place in the ranking"),
}
"""The natural range of every built-in component; a user's scorer has the one that `scorer_ranges` gives it, if any."""

NOISE_FLOORS: Mapping[str, float] = {
    # Computed, not judged: the effect of rounding to 8 bits.
    "edit_score": 1e-3,
    "editscore_truth": 1e-3,
    "editscore_success_truth": 1e-3,
    "editscore_preservation_truth": 1e-3,
    "edit_psnr": 0.02,
    "background_psnr": 0.02,
    "background_ssim": 1e-4,
    "pixel_consistency": 1e-4,
    "dino_background": 1e-4,
    # Attention and embeddings in half precision.
    "acd": 1e-3,
    "clip_text": 1e-3,
    "clip_direction": 1e-3,
    # Judges: 1 % and 0.5 % of their range; repeated passes of one judge differ by more.
    "editscore": 0.01,
    "editscore_success": 0.01,
    "editscore_preservation": 0.01,
    "qwen_vl": 0.005,
}
"""Spread within a group, in a component's own unit, up to which it is noise; 0 for a user's scorer."""
