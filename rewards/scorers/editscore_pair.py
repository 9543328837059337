"""EditScore's request about the edit, each of its two numbers as a component of its own, for credit per region."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from rewards.cache.base import Part
from rewards.judge.parsing import PAIR_RANGE
from rewards.judge.prompts import success_parts
from rewards.result import Score
from rewards.scorer_api import ScoreInput, WaitingScorer
from rewards.scorers.editscore import EditScore, mean_score
from rewards.scorers.judged import Outcome, Pass, judged, settled

COMPONENTS = ("editscore_success", "editscore_preservation")
"""In the order of a response: editing success, and minimal over-editing, each over 25."""


class EditScorePair:
    """Two components from one request per pass: [editing success, minimal over-editing] (arXiv 2509.23909), in [0, 1].

    The overall score takes the smaller of both. Apart they say where something is wrong: the first is about the edit
    region, the second about the background. Both components of a group share the responses, whichever of them are
    weighted; passes, errors and the cache are as of `EditScore`, and the number of a pass is part of the key.

    Raises:
        JudgesDown: from a call, when the judge's failure limits are reached.
    """

    def __init__(self, editscore: EditScore) -> None:
        self._editscore = editscore
        self._asked: WeakKeyDictionary[ScoreInput, asyncio.Task[list[list[Outcome]]]] = WeakKeyDictionary()

    def component(self, name: str) -> WaitingScorer:
        """The scorer of one of `COMPONENTS`."""
        number = COMPONENTS.index(name)

        async def scored(given: ScoreInput) -> tuple[Score, ...]:
            if given not in self._asked:
                self._asked[given] = asyncio.get_running_loop().create_task(self._ask(given))
            outcomes = await self._asked[given]
            return tuple(mean_score(name, candidate, one[number::2]) for candidate, one in enumerate(outcomes))

        return scored

    def parts(self) -> dict[str, Part]:
        """Of the cache's keys; see `rewards.scorers.judged.judged`."""
        return {**self._editscore.parts(), "judge": "editscore pair"}

    async def _ask(self, given: ScoreInput) -> list[list[Outcome]]:
        """Of every candidate, both numbers of pass 0, of pass 1, ..."""

        async def ask(wanted: Sequence[Pass]) -> list[Outcome]:
            passes = list(dict.fromkeys(replace(one, seed=one.seed // 2) for one in wanted))
            pairs = dict(zip(passes, await settled([self._pair(given, one) for one in passes]), strict=True))
            return [_number(pairs[replace(one, seed=one.seed // 2)], one.seed % 2) for one in wanted]

        return await judged(self._editscore.cache, given, self.parts(), 2 * self._editscore.config.passes, ask)

    async def _pair(self, given: ScoreInput, one: Pass) -> tuple[float, float]:
        parts = success_parts(given.task.instruction, one.source, one.edited)
        success, preservation = await self._editscore.pair(parts, one.seed)
        return success / PAIR_RANGE, preservation / PAIR_RANGE


def _number(pair: tuple[float, float] | Outcome, number: int) -> Outcome:
    return pair[number] if isinstance(pair, tuple) else pair
