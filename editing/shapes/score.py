"""The verifiable edit score of the embedded benchmark: which outcome does the picture show?

Every possible outcome of the edit (twelve things, or nothing) is painted exactly, and the picture is compared
with all of them inside the mask. The score is a softmax over the mean squared errors; it needs no judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from editing.shapes.edits import OUTCOMES, Edit, edit_mask, outcomes

TEMPERATURE = 0.01  # mean squared error (pictures in [0, 1]) that costs one nat


@dataclass(frozen=True)
class EditVerdict:
    """`score` [B] in (0, 1): probability of the asked outcome; `correct` [B]: it is the nearest one."""

    score: np.ndarray
    correct: np.ndarray


def edit_verdict(images: np.ndarray, edit: Edit) -> EditVerdict:
    """Judge uint8 images [B, 64, 64, 3] against the 13 outcomes of `edit` inside its mask.

    p_j = softmax_j(-MSE_mask(image, outcome_j) / 0.01), score = p at the asked outcome.
    """
    mask = edit_mask(edit)
    if images.shape[1:3] != mask.shape:
        raise ValueError(f"expected images of {mask.shape}, got {images.shape[1:3]}")
    shown = images[:, mask].astype(np.float64) / 255                    # [B, P, 3]
    templates = outcomes(edit)[:, mask].astype(np.float64)              # [13, P, 3]
    error = np.square(shown[:, None] - templates[None]).mean(axis=(2, 3))  # [B, 13]
    logits = -error / TEMPERATURE
    logits -= logits.max(axis=1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    asked = OUTCOMES.index(edit.after)
    return EditVerdict(probability[:, asked], error.argmin(axis=1) == asked)
