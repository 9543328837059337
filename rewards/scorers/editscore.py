"""EditScore: a judge's verdict on the edit and on the picture, averaged over several passes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from configs.rewards import EditScoreConfig
from editing.task import EditTask
from rewards.cache.base import ScoreCache, cache_key
from rewards.judge.answers import PAIR_RANGE, PAIR_SCHEMA, parse_pair, unwrapped
from rewards.judge.messages import Judge, Question
from rewards.judge.pictures import encode_png, fingerprint
from rewards.judge.prompts import EDITSCORE_PROMPT_VERSION, Parts, quality_parts, success_parts
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.scorers.judged import (
    Outcome,
    error_score,
    model_parts,
    rehearse,
    settled,
    through_cache,
    together,
    usable,
)

NAME = "editscore"

Pair = tuple[float, float]
"""Two scores of one answer, 0..25 each."""


def overall(sc: Pair, pq: Pair) -> float:
    """O / 10 in [0, 1], the score of one pass. EditScore, arXiv 2509.23909.

        SC = min(editing success, minimal over-editing) * 10 / 25        semantic consistency, 0..10
        PQ = min(naturalness, freedom from artefacts)   * 10 / 25        perceptual quality, 0..10
        O  = sqrt(SC * PQ)                                               overall, 0..10

    An edit is as good as its weakest side: 0 in any of the four makes O = 0.

        overall((20, 25), (15, 10))  =  sqrt(8 * 4) / 10  =  .566
    """
    return math.sqrt(min(sc) * 10 / PAIR_RANGE * (min(pq) * 10 / PAIR_RANGE)) / 10


class EditScore:
    """One `Score` per candidate: the mean over passes of O / 10, in [0, 1], with the passes in `Score.passes`.

    A pass is two questions with the pass's index as seed: SC sees source, instruction and edited picture, PQ the
    edited picture alone. All passes of all candidates are asked at the same time; the judge bounds how many are under
    way. A candidate of which any pass failed has an error, not the mean of the rest: fewer passes are noisier, and
    which of them fail is not chance. Passes that did succeed are cached, so asking again is cheaper.

    Raises:
        JudgesDown: from a call, when the judge's failure limits are reached.
    """

    def __init__(self, judge: Judge, config: EditScoreConfig, cache: ScoreCache) -> None:
        self.judge = judge
        self.config = config
        self.cache = cache

    async def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        passes = self.config.passes
        # In a thread, as hashing and encoding megapixels would hold up every other request of this process.
        keys = await asyncio.to_thread(self._keys, given)

        async def ask(positions: Sequence[int]) -> list[Outcome]:
            wanted = sorted({position // passes for position in positions})
            source, *edited = await asyncio.to_thread(
                lambda: [encode_png(picture) for picture in (given.task.source, *given.images[wanted])]
            )
            png = dict(zip(wanted, edited, strict=True))
            return await settled(
                [self._pass(given.task.instruction, source, png[at // passes], at % passes) for at in positions]
            )

        outcomes = await through_cache(self.cache, keys, ask)
        return tuple(_score(i, outcomes[i * passes : (i + 1) * passes]) for i in range(len(given.images)))

    async def rehearse(self, task: EditTask) -> None:
        """See `rewards.scorers.judged.rehearse`; the longer of a pass's two questions."""
        source = await asyncio.to_thread(encode_png, task.source)
        await rehearse(self.judge, self._question(success_parts(task.instruction, source, source), 0), task)

    async def _pass(self, instruction: str, source: bytes, edited: bytes, seed: int) -> float:
        sc, pq = await together(
            [
                self._pair(success_parts(instruction, source, edited), seed),
                self._pair(quality_parts(edited), seed),
            ]
        )
        return overall(sc, pq)

    async def _pair(self, parts: Parts, seed: int) -> Pair:
        return await usable(self.judge, self._question(parts, seed), lambda answer: parse_pair(unwrapped(answer.text)))

    def _question(self, parts: Parts, seed: int) -> Question:
        return Question(
            parts=parts,
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            top_k=self.config.top_k,
            seed=seed,
            json_schema=PAIR_SCHEMA,
        )

    def _keys(self, given: ScoreInput) -> list[str]:
        """G * passes keys, candidate by candidate; all that can change an answer is in them."""
        source = fingerprint(given.task.source)
        return [
            cache_key(
                judge=NAME,
                **model_parts(self.config),
                prompt=EDITSCORE_PROMPT_VERSION,
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                top_k=self.config.top_k,
                max_tokens=self.config.max_tokens,
                seed=seed,
                instruction=given.task.instruction,
                source=source,
                edited=edited,
            )
            for edited in map(fingerprint, given.images)
            for seed in range(self.config.passes)
        ]


def _score(candidate: int, outcomes: Sequence[Outcome]) -> Score:
    values = [outcome for outcome in outcomes if isinstance(outcome, float)]
    if len(values) == len(outcomes):
        return Score(value=math.fsum(values) / len(values), passes=tuple(values))
    seed, first = next((k, outcome) for k, outcome in enumerate(outcomes) if not isinstance(outcome, float))
    failed = len(outcomes) - len(values)
    where = f"{NAME}: candidate {candidate}: {failed} of {len(outcomes)} passes gave no score; pass {seed}"
    return error_score(where, first)
