"""The components that a candidate is scored by, one file each."""

from collections.abc import Mapping

from rewards.scorer_api import PlainScorer
from rewards.scorers.acd import attention_concentration
from rewards.scorers.pixel_consistency import pixel_consistency
from rewards.scorers.psnr import background_psnr
from rewards.scorers.rank import rank
from rewards.scorers.ssim import background_ssim
from rewards.scorers.verifiable import (
    edit_psnr,
    edit_score,
    editscore_preservation_truth,
    editscore_success_truth,
    editscore_truth,
)

SCORERS: Mapping[str, PlainScorer] = {
    "edit_score": edit_score,
    "editscore_truth": editscore_truth,
    "editscore_success_truth": editscore_success_truth,
    "editscore_preservation_truth": editscore_preservation_truth,
    "edit_psnr": edit_psnr,
    "background_psnr": background_psnr,
    "background_ssim": background_ssim,
    "pixel_consistency": pixel_consistency,
    "acd": attention_concentration,
    "rank": rank,
}
"""Every component that needs no server and no code of the user's."""
