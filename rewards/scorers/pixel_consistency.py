"""CoCoEdit's pixel reward: masked SSIM and PSNR in one number between 0 and 1."""

from rewards import pixel
from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of

SSIM_SHARE = 0.7
FULL_PSNR = 40.0
"""dB from which the PSNR counts as perfect."""


def pixel_consistency(given: ScoreInput) -> tuple[Score, ...]:
    """.7 SSIM + .3 clip(PSNR / 40 dB, 0, 1) of every candidate to the source outside the edit mask.

    arXiv 2602.14068, with the weights of released code (langmanbusi/CoCoEdit @ bee04e4; the paper has a half each). Two
    defects of that code's metrics are not repeated, so values are not comparable with its logs:

    - its mean squared error is a sum over three channels divided by the number of pixels alone, so its PSNR reads
      4.77 dB too low;
    - its SSIM divides moments under a window of unit sum by an all-ones count of 121 pixels, which shrinks them 121
      times and hides contrast: Gaussian noise of .1 has .982 there and .575 here.

    A mask over the whole image leaves nothing to measure: an error, where released code gives 0.
    """
    task = given.task
    try:
        ssim = pixel.background_ssim(given.images, task.source, task.edit_mask)
        psnr = pixel.background_psnr(given.images, task.source, task.edit_mask)
    except pixel.RegionError:
        return refused(given, "pixel_consistency", "has an edit mask over the whole image, so no background")
    values = SSIM_SHARE * ssim + (1 - SSIM_SHARE) * (psnr / FULL_PSNR).clamp(0, 1)
    return scores_of(values.numpy(), "pixel_consistency")
