"""Shared by all judge scorers: cache first, all misses at once, one retry of unusable responses, errors kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from configs.judges import EditScoreConfig, QwenVlConfig
from editing.task import EditTask
from rewards.cache.base import Part, ScoreCache, cache_key
from rewards.judge.images import encode_png, fingerprint
from rewards.judge.messages import BadResponse, Judge, JudgeRefused, JudgeRequest, JudgeResponse, JudgeUnavailable
from rewards.result import Reason, Score
from rewards.scorer_api import ScoreInput

REHEARSAL_SEED = 20_260_409
"""Of rehearsals, which no pass has: whoever reads a server's log can tell them from requests that count."""
T = TypeVar("T")

REQUEST_FAULTS = (JudgeUnavailable, JudgeRefused, BadResponse)
"""Faults of one request, which become errors of one candidate. `JudgesDown` is none of them: it stops the run."""
Fault = JudgeUnavailable | JudgeRefused | BadResponse
Outcome = float | Fault
REASONS: Mapping[type[Exception], Reason] = {
    JudgeUnavailable: "unavailable",
    JudgeRefused: "refused",
    BadResponse: "bad_response",
}


def model_parts(config: EditScoreConfig | QwenVlConfig) -> dict[str, Part]:
    """The parts of a cache key that say which model judges, and how it is served.

    Names, not contents: the weights may lie on another machine. Within a run a name means the same weights; where runs
    share a cache, the configuration demands a `revision`.
    """
    return {
        "model": config.model,
        "revision": config.revision,
        "path": config.serve.path,
        "lora": config.serve.lora,
        "arguments": "\n".join(config.serve.arguments),
    }


def error_score(where: str, fault: Fault) -> Score:
    """A score that is the error of a request."""
    return Score(error=f"{where}: {fault}", reason=REASONS[type(fault)])


async def usable(judge: Judge, request: JudgeRequest, read: Callable[[JudgeResponse], T]) -> T:
    """What `read` makes of the response. An unusable response is asked for once more, at temperature 0.

    Every response is noted at the judge, which counts the bad ones.

    Raises:
        BadResponse: when the second response is unusable too.
        JudgeUnavailable, JudgeRefused, JudgesDown: as `Judge.ask` and `Judge.note`.
    """
    for attempt in (request, replace(request, temperature=0.0)):
        response = await judge.ask(attempt)
        try:
            value = read(response)
        except BadResponse as error:
            bad = BadResponse(f"{error}{hint(response, request.max_tokens)}")
            judge.note(False, str(bad))
        else:
            judge.note(True)
            return value
    raise BadResponse(
        "no usable response, not at temperature 0 either; "
        f"{response.server} ended it by {response.finish_reason!r}: {bad}"
    ) from bad


def hint(response: JudgeResponse, max_tokens: int) -> str:
    """What to set where an unusable response shows what is wrong with the server; empty otherwise."""
    thinking = response.text.lstrip().startswith("<think>") and "</think>" not in response.text
    if response.field != "content" or thinking:
        where = "began to think" if thinking else f"left the content empty and wrote this into {response.field}"
        return (
            f". The judge {where}: turn its thinking off (vLLM: --default-chat-template-kwargs "
            "'{\"enable_thinking\": false}', in a run's own servers by serve.arguments)"
            + (f", or raise max_tokens, which is {max_tokens}" if response.finish_reason == "length" else "")
        )
    if response.finish_reason == "length" and max_tokens > 1:
        return f". It was cut off: raise rewards.judge.editscore.max_tokens, which is {max_tokens}"
    return ""


async def rehearse(judge: Judge, task: EditTask, request_of: Callable[[bytes], JudgeRequest]) -> None:
    """Asks the judge's servers one request of the run's own form, size and length; its response is not scored.

    `request_of` makes the request from the PNG of the task's source, which stands for the edited image too.

    A context that two images of the run do not fit into, or a server that cannot keep to a schema, is noticed so
    before the first group and not after it.

    Raises:
        JudgeRefused: with the size of the images and the tokens that were asked for.
    """
    request = request_of(await asyncio.to_thread(encode_png, task.source))
    try:
        await judge.rehearse(replace(request, seed=REHEARSAL_SEED))
    except JudgeRefused as refused:
        raise JudgeRefused(
            f"A rehearsal with two images of {task.width} × {task.height} pixels, as the run's are, and max_tokens "
            f"{request.max_tokens} was refused, so no group could be scored: {refused}"
        ) from refused


@dataclass(frozen=True)
class Pass:
    """What one pass over one candidate is asked with: both images as PNG, and the pass's number as the seed."""

    source: bytes
    edited: bytes
    seed: int


async def judged(
    cache: ScoreCache,
    given: ScoreInput,
    parts: Mapping[str, Part],
    passes: int,
    ask: Callable[[Sequence[Pass]], Awaitable[Sequence[Outcome]]],
) -> list[list[Outcome]]:
    """The outcomes of all passes, candidate by candidate: from the cache, or asked and then cached.

    Args:
        parts: all that can change an outcome besides the task's instruction, the images and the pass's number.
        passes: how many for each candidate.
        ask: the outcomes of these passes.
    """
    # In a thread, as hashing and encoding megapixels would hold up every other request of this process.
    keys = await asyncio.to_thread(cache_keys, given, parts, passes)

    async def ask_at(positions: Sequence[int]) -> Sequence[Outcome]:
        wanted = sorted({position // passes for position in positions})
        source, *edited = await asyncio.to_thread(
            lambda: [encode_png(image) for image in (given.task.source, *given.images[wanted])]
        )
        png = dict(zip(wanted, edited, strict=True))
        return await ask([Pass(source, png[position // passes], position % passes) for position in positions])

    outcomes = await through_cache(cache, keys, ask_at)
    return [outcomes[start : start + passes] for start in range(0, len(outcomes), passes)]


def cache_keys(given: ScoreInput, parts: Mapping[str, Part], passes: int) -> list[str]:
    """G * passes keys, candidate by candidate."""
    source = fingerprint(given.task.source)
    return [
        cache_key(**parts, seed=seed, instruction=given.task.instruction, source=source, edited=edited)
        for edited in map(fingerprint, given.images)
        for seed in range(passes)
    ]


async def through_cache(
    cache: ScoreCache,
    keys: Sequence[str],
    ask: Callable[[Sequence[int]], Awaitable[Sequence[Outcome]]],
) -> list[Outcome]:
    """A score in [0, 1], or why there is none, per key: from the cache, or asked and then cached.

    Args:
        keys: equal keys mean equal requests, which are asked once.
        ask: the outcomes of the requests at these positions of `keys`; errors among them are not cached.
    """
    known: dict[str, Outcome] = {
        key: float(value)
        for key, value in zip(keys, await cache.get(keys), strict=True)
        # The cache may be shared with others: what is not a score of ours is requested again.
        if value is not None and 0.0 <= value <= 1.0
    }
    missing: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key not in known:
            missing.setdefault(key, position)
    if missing:
        fresh = dict(zip(missing, await ask(list(missing.values())), strict=True))
        await cache.put({key: value for key, value in fresh.items() if isinstance(value, float)})
        known |= fresh
    return [known[key] for key in keys]


async def settled(requests: Sequence[Coroutine[Any, Any, T]]) -> list[T | Fault]:
    """The outcomes of all, asked at the same time.

    Raises:
        JudgesDown: and whatever is not a fault of one request; the other requests are given up then.
    """

    async def outcome(request: Coroutine[Any, Any, T]) -> T | Fault:
        try:
            return await request
        except REQUEST_FAULTS as error:
            return error

    return await together([outcome(request) for request in requests])


async def together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, run at the same time. Where one raises, the others are cancelled and have ended when its
    exception is raised; where several did at once, it is one that is more than a fault of one request."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as several:
        graver = [error for error in several.exceptions if not isinstance(error, REQUEST_FAULTS)]
        raise (graver or several.exceptions)[0] from None
    return [task.result() for task in tasks]
