"""What a user's scorer is given, from nothing that takes long to import."""

import numpy as np

from editing.task import EditTask
from rewards.scorer_api import ScoreInput


def given_of(candidates: int = 3, height: int = 7, width: int = 9, instruction: str = "make it red") -> ScoreInput:
    """Noise as source and candidates."""
    rng = np.random.default_rng(0)
    task = EditTask(
        "t", rng.integers(0, 256, (height, width, 3), dtype=np.uint8), np.eye(height, width, dtype=bool), instruction
    )
    return ScoreInput(task, rng.integers(0, 256, (candidates, height, width, 3), dtype=np.uint8), None)
