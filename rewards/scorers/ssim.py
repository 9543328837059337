"""SSIM to the source outside the edit mask: did what must not change stay as it was?"""

from rewards import pixel
from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of


def background_ssim(given: ScoreInput) -> tuple[Score, ...]:
    """SSIM in [-1, 1] of every candidate to the source outside the edit mask.

    A mask over the whole image leaves nothing to measure: an error. An empty mask measures the whole image.
    """
    task = given.task
    try:
        values = pixel.background_ssim(given.images, task.source, task.edit_mask)
    except pixel.RegionError:
        return refused(given, "background_ssim", "has an edit mask over the whole image, so no background")
    return scores_of(values.numpy(), "background_ssim")
