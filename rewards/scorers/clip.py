"""What CLIP or SigLIP sees in the edit region: the text of the task, and a change towards it."""

from __future__ import annotations

import numpy as np
import torch

from rewards.embedding.models import ImageText
from rewards.embedding.pixels import crop_box
from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of

NEUTRAL = "a photo"
"""What a caption is compared with, since tasks have no caption of their source (StyleGAN-NADA, arXiv 2108.00946, takes
the same for "no particular kind of image")."""
LEAST_STEP = 0.1
"""Length of a change between unit embeddings, a cosine of .995, below which its direction counts only in part."""


class ClipText:
    """One `Score` per candidate: cosine of image and text, in [-1, 1]. CLIPScore, arXiv 2104.08718, of the crop.

    The image is the crop around the edit mask (`crop_box`), so that a small edit in a large image counts; the text is
    the task's caption, else its instruction. An instruction ("make the cat red") describes the result only in part:
    captions make a better reward. The cosine itself, not a softmax or sigmoid over a batch: it depends on nothing but
    the candidate, and candidates of one task share the text.
    """

    def __init__(self, model: ImageText) -> None:
        self._model = model

    def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        images = self._model.images(crop_box(given.task.edit_mask).of(given.images))
        text = self._model.texts([given.task.caption or given.task.instruction])[0]
        return scores_of((images @ text).clamp(-1.0, 1.0).numpy(), "clip_text")


class ClipDirection:
    """One `Score` per candidate, in [-1, 1]: did the edit region move from its source towards the caption?

        v = E(edited crop) - E(source crop),  t = E(caption) - E("a photo"),  <v, t> / (max(|v|, .1) |t|)

    Directional similarity (StyleGAN-NADA, arXiv 2108.00946; InstructPix2Pix, arXiv 2211.09800) with unit embeddings.
    Tasks have no caption of their source, so the text's direction is that of the caption from a neutral text: it also
    points to what the source had already, which makes values smaller but, within a group, orders candidates alike. A
    task without a caption is an error: an instruction does not describe the result.

    The cosine has no value where nothing changed, v = 0, and hardly any meaning where v is as short as an encoder's
    noise. Dividing by at least `LEAST_STEP` makes it the continuous function whose limit there is 0: no movement
    towards the text, which ranks a copy below every edit in the right direction and above those in the wrong one.
    An error instead would take copies out of their groups, and so shield copying from every comparison.
    """

    def __init__(self, model: ImageText) -> None:
        self._model = model

    def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        task = given.task
        if task.caption is None:
            return refused(
                given,
                "clip_direction",
                'has no caption; add a description of the wanted image to its line ("caption"), or use clip_text',
            )
        box = crop_box(task.edit_mask)
        source, *edited = self._model.images(box.of(np.concatenate([task.source[None], given.images])))
        change = torch.stack(edited) - source
        caption, neutral = self._model.texts([task.caption, NEUTRAL])
        wanted = caption - neutral
        if wanted.norm() < 1e-4:
            return refused(
                given,
                "clip_direction",
                f"has the caption {task.caption!r}, which says no more than "
                f"{NEUTRAL!r}, so there is no direction; describe the wanted image",
            )
        values = (change @ wanted) / (change.norm(dim=-1).clamp(min=LEAST_STEP) * wanted.norm())
        return scores_of(values.clamp(-1.0, 1.0).numpy(), "clip_direction")
