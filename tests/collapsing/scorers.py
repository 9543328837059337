"""A scorer as a user could write it by accident: it is counted as a reward for the edit, but asks for a copy."""

from rewards.pixel import background_psnr


def fidelity(given):
    """PSNR outside the mask, in dB: largest where nothing was edited."""
    return background_psnr(given.images, given.task.source, given.task.edit_mask)
