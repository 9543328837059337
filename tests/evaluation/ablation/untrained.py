"""A runner that writes what runs would leave, with gains that a function knows."""

from pathlib import Path

from PIL import Image

from configs import exits
from configs.load import load_config
from tests.evaluation.ended_runs import write_summary

BASE = {
    "edit_score": 0.5,
    "editscore_truth": 0.5,
    "edit_accuracy": 0.5,
    "edit_psnr": 20.0,
    "background_psnr": 26.0,
    "background_ssim": 0.9,
    "background_pyramid": 0.01,
}


class Untrained:
    """`gain(config)` gives the gain of every metric of a run; `configs` are those that were run."""

    def __init__(self, gain):
        self.gain, self.configs = gain, []

    def __call__(self, command, log: Path, stop) -> int:
        config = load_config(list(command[3:]))
        self.configs.append(config)
        gain = self.gain(config)
        write_summary(config, BASE, gain if isinstance(gain, dict) else dict.fromkeys(BASE, gain), step_seconds=7.0)
        return exits.DONE


def is_plot(path: Path) -> bool:
    """Whether the file is an image in which something is drawn."""
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
        return image.format == "PNG" and min(image.size) > 200 and len(colours) > 20
