"""Attention concentration: did the text attend to the edit region while the image was made?"""

from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of


def attention_concentration(given: ScoreInput) -> tuple[Score, ...]:
    """Attention concentration as the rollout measured it, in [0, N / |M|]."""
    if given.acd is None:
        return refused(given, "acd", "was rolled out without an attention probe; its config has no acd weight")
    return scores_of(given.acd, "acd")
