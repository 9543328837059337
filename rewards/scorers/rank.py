"""The place of given images in the ranking of their group: nothing is judged."""

import numpy as np

from rewards.result import Score
from rewards.scorer_api import ScoreInput, scores_of


def rank(given: ScoreInput) -> tuple[Score, ...]:
    """From 1 for the first image, the best, evenly down to 0 for the last; 1 for one alone."""
    return scores_of(np.linspace(1, 0, len(given.images)), "rank")
