"""The verifiable edit score of the embedded benchmark: which outcome the image shows inside the mask.

Every possible outcome of the edit (twelve things, or nothing) is painted exactly, and the image is compared
with all of them inside the mask. The score needs no judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from editing.shapes.edits import OUTCOMES, Edit, edit_mask, outcomes
from editing.shapes.scenes import to_uint8

TEMPERATURE = 0.01  # mean squared error (images in [0, 1]) that costs one nat


@dataclass(frozen=True)
class EditVerdict:
    """`score` [B] in (0, 1], 1 for the truth alone; `correct` [B]: the asked outcome is the nearest one."""

    score: np.ndarray
    correct: np.ndarray


def edit_verdict(images: np.ndarray, edit: Edit) -> EditVerdict:
    """Judge uint8 images [B, 64, 64, 3] against the 13 outcomes of `edit`, inside its mask only.

    With d_j the mean squared error to outcome j inside the mask, a the asked outcome, D_j its own error to outcome
    j, and T = 0.01,

        score = Z / (1 + sum_{j != a} exp((d_a - min(d_j, D_j)) / T)),     Z = 1 + sum_{j != a} exp(-D_j / T).

    Without the cap at D_j this is the softmax over -d_j / T, which rewards going *beyond* the truth, away from the
    other outcomes: more saturated than the truth scores higher than the truth. With it the score is 1 at the truth
    and nowhere else, and it falls along every straight line that leaves the truth, since d_a - d_j and d_a - D_j
    both grow there. What lies outside the mask is not looked at: see `editing.shapes.editscore` for the whole edit.

    It is a distance: a wrong outcome that looks much like the asked one has a score as well. Over the 256 test scenes
    the untouched source has .016 on average, the nearest wrong outcome painted exactly .29, and at most (a square for a
    circle of the same colour) .71. Whether the asked outcome is the nearest says `correct`.
    """
    mask = edit_mask(edit)
    if images.shape[1:3] != mask.shape:
        raise ValueError(f"expected images of {mask.shape}, got {images.shape[1:3]}")
    shown = images[:, mask].astype(np.float64) / 255  # [B, P, 3]
    templates = to_uint8(outcomes(edit))[:, mask].astype(np.float64) / 255  # [13, P, 3]
    asked = OUTCOMES.index(edit.after)
    error = np.square(shown[:, None] - templates[None]).mean(axis=(2, 3))  # d [B, 13]
    apart = np.square(templates - templates[asked]).mean(axis=(1, 2))  # D [13], 0 at `asked`
    # The term of `asked` itself is exp(0) = 1 in both sums.
    beyond = error[:, [asked]] - np.minimum(error, apart)
    beyond[:, asked] = 0
    score = np.exp(-apart / TEMPERATURE).sum() / np.exp(beyond / TEMPERATURE).sum(axis=1)
    return EditVerdict(score, error.argmin(axis=1) == asked)
