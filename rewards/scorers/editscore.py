"""EditScore: a judge's verdict on the edit and on the image, averaged over several passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from configs.judges import EditScoreConfig
from editing.task import EditTask
from rewards.cache.base import Part, ScoreCache
from rewards.judge.messages import Judge, JudgeRequest
from rewards.judge.parsing import PAIR_RANGE, PAIR_SCHEMA, parse_pair, unwrapped
from rewards.judge.prompts import EDITSCORE_PROMPT_VERSION, Parts, quality_parts, success_parts
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.scorers.judged import (
    Outcome,
    Pass,
    error_score,
    judged,
    model_parts,
    rehearse,
    settled,
    together,
    usable,
)

NAME = "editscore"

Pair = tuple[float, float]
"""Two scores of one response, 0..25 each."""


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

    A pass is two requests with the pass's index as seed: SC sees source, instruction and edited image, PQ the
    edited image alone. All passes of all candidates are asked at the same time; the judge bounds how many are under
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
        async def ask(passes: Sequence[Pass]) -> list[Outcome]:
            return await settled([self._pass(given.task.instruction, one) for one in passes])

        outcomes = await judged(self.cache, given, self.parts(), self.config.passes, ask)
        return tuple(mean_score(NAME, candidate, one) for candidate, one in enumerate(outcomes))

    def parts(self) -> dict[str, Part]:
        """Of the cache's keys; see `rewards.scorers.judged.judged`."""
        return {
            "judge": NAME,
            **model_parts(self.config),
            "prompt": EDITSCORE_PROMPT_VERSION,
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "top_k": self.config.top_k,
            "max_tokens": self.config.max_tokens,
        }

    async def rehearse(self, task: EditTask) -> None:
        """See `rewards.scorers.judged.rehearse`; the longer of a pass's two requests."""
        await rehearse(
            self.judge, task, lambda source: self._request(success_parts(task.instruction, source, source), 0)
        )

    async def _pass(self, instruction: str, one: Pass) -> float:
        sc, pq = await together(
            [
                self.pair(success_parts(instruction, one.source, one.edited), one.seed),
                self.pair(quality_parts(one.edited), one.seed),
            ]
        )
        return overall(sc, pq)

    async def pair(self, parts: Parts, seed: int) -> Pair:
        """Both scores of one request, 0..25 each; raises as `rewards.scorers.judged.usable`."""
        return await usable(
            self.judge, self._request(parts, seed), lambda response: parse_pair(unwrapped(response.text))
        )

    def _request(self, parts: Parts, seed: int) -> JudgeRequest:
        return JudgeRequest(
            parts=parts,
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            top_k=self.config.top_k,
            seed=seed,
            json_schema=PAIR_SCHEMA,
        )


def mean_score(name: str, candidate: int, outcomes: Sequence[Outcome]) -> Score:
    """The mean over a candidate's passes, or the error of the first that failed."""
    values = [outcome for outcome in outcomes if isinstance(outcome, float)]
    if len(values) == len(outcomes):
        return Score(value=math.fsum(values) / len(values), passes=tuple(values))
    seed, first = next((k, outcome) for k, outcome in enumerate(outcomes) if not isinstance(outcome, float))
    failed = len(outcomes) - len(values)
    where = f"{name}: candidate {candidate}: {failed} of {len(outcomes)} passes gave no score; pass {seed}"
    return error_score(where, first)
