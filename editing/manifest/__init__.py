"""A user's own data: a JSONL manifest of images, masks and instructions.

`python -m editing.validate FILE` checks one and prints what it found; `editing.manifest.lines` describes
what a line holds. Opening a manifest decodes every image once, so that a faulty line is known before
hours of training, not after; faulty lines are skipped and kept as `Fault`s, up to a limit.
"""

from editing.manifest.dataset import ManifestDataset, ManifestError
from editing.manifest.faults import Fault, FaultyLines

__all__ = ["Fault", "FaultyLines", "ManifestDataset", "ManifestError"]
