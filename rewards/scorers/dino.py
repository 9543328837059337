"""How much of what lies outside the edit region DINO recognises again."""

from __future__ import annotations

import numpy as np
import torch

from rewards.embedding.models import Patches
from rewards.embedding.pixels import background_shares
from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of


class DinoBackground:
    """One `Score` per candidate, in [-1, 1]: mean cosine of patches outside the mask with those of the source.

    Attention lets every patch see the whole image, so what was asked for inside the mask would change the patches
    outside, and an edit well done would be punished. The edit region is therefore neutralised: the source's own
    pixels are put back inside the mask before the model looks, and so nothing but pixels outside can move the score,
    exactly. (A grey patch in both images would do that too, but is no image that the model was trained on.) A patch
    counts by the share of it that lies outside. Equal backgrounds have 1.
    """

    def __init__(self, model: Patches) -> None:
        self._model = model

    def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        task = given.task
        if task.edit_mask.all():
            return refused(given, "dino_background", "has an edit mask over the whole image, so there is no background")
        outside = np.where(task.edit_mask[:, :, None], task.source, given.images)
        source, *edited = self._model.patches(np.concatenate([task.source[None], outside]))
        shares = torch.from_numpy(background_shares(task.edit_mask, *source.shape[:2])).float()
        alike = (torch.stack(edited) * source).sum(dim=-1)
        values = (alike * shares).sum(dim=(1, 2)) / shares.sum()
        return scores_of(values.clamp(-1.0, 1.0).numpy(), "dino_background")
