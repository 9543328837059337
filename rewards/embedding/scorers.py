"""Scorers backed by embedding models, each computed in a thread while others wait for judges."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from configs.rewards import EmbeddingConfig
from rewards.embedding.models import load_image_text, load_patches
from rewards.result import Score
from rewards.scorer_api import PlainScorer, ScoreInput, WaitingScorer
from rewards.scorers.clip import ClipDirection, ClipText
from rewards.scorers.dino import DinoBackground


def open_scorers(config: EmbeddingConfig, names: Collection[str]) -> dict[str, WaitingScorer]:
    """The embedding scorers among these components; those that share a model share it in memory, too.

    Raises:
        EmbeddingError: when a model cannot be loaded.
    """
    found: dict[str, PlainScorer] = {}
    if {"clip_text", "clip_direction"} & set(names):
        model = load_image_text(config.clip)
        found |= {"clip_text": ClipText(model), "clip_direction": ClipDirection(model)}
    if "dino_background" in names:
        found["dino_background"] = DinoBackground(load_patches(config.dino))
    return {name: _in_thread(scorer) for name, scorer in found.items() if name in names}


def _in_thread(scorer: PlainScorer) -> WaitingScorer:
    async def computed(given: ScoreInput) -> Sequence[Score]:
        return await asyncio.to_thread(scorer, given)

    return computed
