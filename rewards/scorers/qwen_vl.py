"""Edit-R1's judge: the expected value of a one-digit response under the model's own probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from configs.judges import QwenVlConfig
from editing.task import EditTask
from rewards.cache.base import Part, ScoreCache
from rewards.judge.messages import BadResponse, Judge, JudgeRefused, JudgeRequest, JudgeResponse
from rewards.judge.parsing import DIGITS, excerpt, expected_digit
from rewards.judge.prompts import QWEN_VL_PROMPT_VERSION, digit_parts
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.scorers.judged import (
    REQUEST_FAULTS,
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

NAME = "qwen_vl"
TOP_LOGPROBS = 20
"""As many as an OpenAI-compatible server gives."""


class QwenVl:
    """One `Score` per candidate: the expected digit over 5, in [0, 1] (formula: `expected_digit`).

    One request of one token per candidate, all at the same time: source, instruction, requirement and edited image.
    The response's own probabilities are the score, so there is nothing to average and nothing to sample.

    Raises:
        JudgesDown: from a call, when the judge's failure limits are reached.
    """

    def __init__(self, judge: Judge, config: QwenVlConfig, cache: ScoreCache) -> None:
        self.judge = judge
        self.config = config
        self.cache = cache
        self._digit_ids: tuple[int, ...] = ()

    async def __call__(self, given: ScoreInput) -> tuple[Score, ...]:
        async def ask(passes: Sequence[Pass]) -> list[Outcome]:
            try:
                ids = await self.digit_ids()
            except REQUEST_FAULTS as error:
                return [error] * len(passes)
            return await settled([self._one(given.task.instruction, one.source, one.edited, ids) for one in passes])

        outcomes = await judged(self.cache, given, self.parts(), 1, ask)
        return tuple(
            Score(value=outcome) if isinstance(outcome, float) else error_score(f"{NAME}: candidate {i}", outcome)
            for i, (outcome,) in enumerate(outcomes)
        )

    async def digit_ids(self) -> tuple[int, ...]:
        """The tokens of "0" to "5" as the served tokenizer makes them, asked for once.

        Raises:
            JudgeRefused: when a digit is not one token of its own, so that this model cannot be asked this way.
            JudgeUnavailable, JudgesDown: as `Judge.token_ids`.
        """
        if not self._digit_ids:
            tokens = await together([self.judge.token_ids(digit) for digit in DIGITS])
            ids = {one[0] for one in tokens if len(one) == 1}
            if len(ids) != len(DIGITS):
                raise JudgeRefused(
                    f"expected one token of its own for each digit {DIGITS[0]} to {DIGITS[-1]}, got "
                    f"{dict(zip(DIGITS, tokens, strict=True))}; serve another model for rewards.judge.{NAME}, or use "
                    "editscore"
                )
            self._digit_ids = tuple(one[0] for one in tokens)
        return self._digit_ids

    def parts(self) -> dict[str, Part]:
        """Of the cache's keys; see `rewards.scorers.judged.judged`."""
        return {
            "judge": NAME,
            **model_parts(self.config),
            "prompt": QWEN_VL_PROMPT_VERSION,
            "min_mass": self.config.min_mass,
            "requirement": self.config.requirement,
        }

    async def rehearse(self, task: EditTask) -> None:
        """See `rewards.scorers.judged.rehearse`. Raises as `digit_ids`, too."""
        ids = await self.digit_ids()
        await rehearse(self.judge, task, lambda source: self._request(task.instruction, source, source, ids))

    async def _one(self, instruction: str, source: bytes, edited: bytes, ids: tuple[int, ...]) -> float:
        request = self._request(instruction, source, edited, ids)
        return await usable(self.judge, request, lambda response: self._read(response, ids))

    def _request(self, instruction: str, source: bytes, edited: bytes, ids: tuple[int, ...]) -> JudgeRequest:
        return JudgeRequest(
            parts=digit_parts(instruction, self.config.requirement, source, edited),
            max_tokens=1,
            allowed_token_ids=ids,
            top_logprobs=TOP_LOGPROBS,
        )

    def _read(self, response: JudgeResponse, ids: tuple[int, ...]) -> float:
        # The text is not the score, but another one shows a server that did not keep to the allowed tokens, so that
        # its probabilities may be those of anything.
        if response.text.strip() not in tuple(DIGITS):
            raise BadResponse(f"expected one digit from {DIGITS[0]} to {DIGITS[-1]}; got {excerpt(response.text)}")
        return expected_digit(response.logprobs, ids, self.config.min_mass)
