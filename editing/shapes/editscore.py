"""EditScore's formula on the embedded benchmark, its four parts computed from ground truth instead of judged.

EditScore (arXiv 2509.23909) asks a judge for four numbers and combines them:

    O = sqrt( min(success, minimal over-editing) * min(naturalness, freedom from artefacts) )

Here every part lies in (0, 1] and is 1 for the exact target image alone, so that O is: whatever deviates from the
truth, inside the mask or outside, costs something. The minima are the formula's own: beside a worse part, what is wrong
in the other part of its minimum costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from editing.shapes.edits import Edit, edit_mask, outcomes
from editing.shapes.scenes import paint, to_uint8
from editing.shapes.score import edit_verdict

HALF = 10**-2.5
"""Mean squared error (images in [0, 1]) at which a part is one half: 25 dB, about what the embedded base leaves."""
CELL = 8
"""Side in pixels of the cells whose mean separates smooth errors from the rest."""


@dataclass(frozen=True)
class EditScoreParts:
    """EditScore's four numbers [B] in (0, 1].

    Attributes:
        success: was the edit done, see `edit_verdict`.
        minimal_over_editing: the rest is still the source.
        naturalness: no smooth error (casts, wrong lighting, washed-out areas) against the nearest plausible result.
        artefacts: freedom from errors within cells of 8 pixels (noise, blur, seams) against that result.
    """

    success: np.ndarray
    minimal_over_editing: np.ndarray
    naturalness: np.ndarray
    artefacts: np.ndarray

    @property
    def overall(self) -> np.ndarray:
        """O [B] in (0, 1], arXiv 2509.23909."""
        done = np.minimum(self.success, self.minimal_over_editing)
        overall: np.ndarray = np.sqrt(done * np.minimum(self.naturalness, self.artefacts))
        return overall


def editscore_parts(images: np.ndarray, edit: Edit) -> EditScoreParts:
    """The parts for uint8 images [B, 64, 64, 3].

    The nearest plausible result is the outcome (of the 13) that is nearest inside the mask: a wrong edit that is
    painted well has no success, but is natural, as it would be for a judge that is shown the result alone.
    """
    mask, shown = edit_mask(edit), images.astype(np.float64) / 255
    source = to_uint8(paint(edit.scene)).astype(np.float64) / 255
    plausible = to_uint8(outcomes(edit)).astype(np.float64) / 255
    inside = np.square(shown[:, None, mask] - plausible[None][:, :, mask]).mean(axis=(2, 3))  # [B, 13]
    residual = shown - plausible[inside.argmin(axis=1)]  # [B, 64, 64, 3]
    batch, height, width, channels = residual.shape
    cells = residual.reshape(batch, height // CELL, CELL, width // CELL, CELL, channels)
    smooth = cells.mean(axis=(2, 4), keepdims=True)
    return EditScoreParts(
        success=edit_verdict(images, edit).score,
        minimal_over_editing=_part(np.square(shown[:, ~mask] - source[~mask]).mean(axis=(1, 2))),
        naturalness=_part(np.square(smooth).mean(axis=(1, 2, 3, 4, 5))),
        artefacts=_part(np.square(cells - smooth).mean(axis=(1, 2, 3, 4, 5))),
    )


def _part(mean_square: np.ndarray) -> np.ndarray:
    """1 without an error, one half at `HALF`, falling strictly (a logistic curve in dB)."""
    return 1 / (1 + mean_square / HALF)
