"""What is measured of every candidate whatever its rewards are, so that a run which goes wrong is noticed."""

from __future__ import annotations

from rewards.appearance import appearance
from rewards.measure import DRIFTS
from rewards.result import Score
from rewards.scorer_api import ScoreInput, scores_of


def looks(given: ScoreInput) -> dict[str, tuple[Score, ...]]:
    """Per candidate `edit_change`, its mean absolute difference to the source inside the edit mask, 0..1, and
    `edit_<name>_drift` and `background_<name>_drift`, its look compared with the source inside and outside the mask,
    for every one of `rewards.measure.DRIFTS`. A region without a pixel has none."""
    found: dict[str, tuple[Score, ...]] = {}
    for where, region in (("edit", given.task.edit_mask), ("background", ~given.task.edit_mask)):
        if not region.any():
            continue
        look = appearance(given.images, given.task.source, region)
        found.update({name: scores_of(look[drift], name) for drift in DRIFTS for name in (f"{where}_{drift}_drift",)})
        if where == "edit":
            found["edit_change"] = scores_of(look["change"], "edit_change")
    return found
