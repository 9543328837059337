"""Parsing of judge responses into numbers: strict, nothing is guessed. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.judge.messages import BadResponse

PAIR_RANGE = 25
"""Best score of EditScore's requests; the worst is 0."""
DIGITS = "012345"
"""The responses of a one-digit request, worst first."""
MAX_HIDDEN_SHIFT = 0.05
"""Most that digits which the server did not report may move an expected digit (in [0, 1])."""

PAIR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        # No maxLength: in a grammar it costs several times the decoding.
        "reasoning": {"type": "string"},
        "score": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": PAIR_RANGE},
            "minItems": 2,
            "maxItems": 2,
        },
    },
    "required": ["reasoning", "score"],
    "additionalProperties": False,
}
"""JSON schema of a response with two scores: the reasoning comes first, so that the scores follow from it."""


def parse_pair(text: str) -> tuple[float, float]:
    """The two scores, each in [0, 25], of a response that is exactly what `PAIR_SCHEMA` asks for.

    Nothing is repaired, searched for in prose, clipped or replaced: where a server ignores the schema, fractions such
    as 12.5 are taken, and nothing else is.

    Raises:
        BadResponse: for anything else, with what was expected and an excerpt of what was seen.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    # RecursionError: brackets, thousands deep. ValueError: no JSON, or an integer of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise _no_pair(text, str(error)) from error
    if not isinstance(found, dict) or found.keys() != {"reasoning", "score"}:
        raise _no_pair(text, "not an object with these two keys")
    if not isinstance(found["reasoning"], str):
        raise _no_pair(text, "the reasoning is not text")
    scores = found["score"]
    if not isinstance(scores, list) or len(scores) != 2:
        raise _no_pair(text, f"{len(scores)} scores" if isinstance(scores, list) else "the score is not a list")
    if any(isinstance(x, str) for x in scores):
        raise _no_pair(text, "a score is text, not a number (does the server enforce the JSON schema?)")
    # A bool is an int for Python, not for JSON; NaN and infinity fail the comparison.
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= PAIR_RANGE for x in scores):
        raise _no_pair(text, f"a score is not a number from 0 to {PAIR_RANGE}")
    return float(scores[0]), float(scores[1])


def unwrapped(text: str) -> str:
    """A response without what servers that do not keep to a schema put around it: thinking that ends before it, or
    one code fence around all of it. What is inside is not touched, and must still be exactly what was asked for.

        <think>Let me look.</think>{"a": 1}  ->  {"a": 1}        ```json\n{"a": 1}\n```  ->  {"a": 1}
    """
    inside = text.strip()
    if inside.startswith("{"):
        return inside
    inside = inside.rpartition("</think>")[2].strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\s*```", inside, re.DOTALL)
    return fenced[1] if fenced else inside


def expected_digit(logprobs: Mapping[int, float], digit_ids: Sequence[int], min_mass: float) -> float:
    """R = sum_s s p(s) / 5 in [0, 1], p the softmax over the log-probabilities of the digits s = 0..5.

    Edit-R1 (arXiv 2510.16888): the expectation of the judge's one-token response, deterministic and continuous.
    Because p is normalised over the digits, it does not matter whether the server reports probabilities over the whole
    vocabulary or over the digits only; but `min_mass` can tell a judge that wanted to say something else only from the
    former.

        p(4) = .6, p(5) = .3 and .1 on other words  ->  R = (4 * .6 + 5 * .3) / .9 / 5 = .867

    Servers that cannot report the digits alone report the 20 most likely tokens, whichever they are. A digit that is
    not among them counts as probability 0. That is exact enough: k hidden digits hold together at most h = min(k * the
    least reported probability, 1 - the sum of the reported ones), which moves R by at most h / (m + h), where m is the
    mass of the visible digits. A possible shift of more than `MAX_HIDDEN_SHIFT` is an error, not a score.

    Args:
        logprobs: natural logarithms by token id, as the server reported them for the first token of the response.
        digit_ids: six token ids, of "0" to "5" in order.
        min_mass: least probability that the digits must hold together, in (0, 1].

    Raises:
        BadResponse: when there are no log-probabilities, when some are invalid (NaN, above 0, adding up to more than
            1), or when the digits hold too little or are not reported well enough.
    """
    if not logprobs:
        raise BadResponse("expected log-probabilities with the response, got none (does the server support logprobs?)")
    impossible = [logprob for logprob in logprobs.values() if not logprob <= 1e-3]  # NaN is not <= anything
    if impossible:
        raise BadResponse(f"expected log-probabilities of at most 0, got {impossible[0]}")
    probabilities = {token: math.exp(logprob) for token, logprob in logprobs.items()}
    total = math.fsum(probabilities.values())
    if total > 1.01:
        raise BadResponse(f"expected probabilities that add up to at most 1, got {total:.3f}")
    visible = {s: probabilities[token] for s, token in enumerate(digit_ids) if token in probabilities}
    mass = math.fsum(visible.values())
    shares = ", ".join(f"{s}: {p:.3g}" for s, p in visible.items()) or "none of them"
    if mass < min_mass:
        raise BadResponse(
            f"expected the digits {DIGITS[0]} to {DIGITS[-1]} to hold a probability of at least {min_mass:g} "
            f"(min_mass) together; got {mass:.3g} ({shares}): the judge wanted to say something else"
        )
    unseen = len(digit_ids) - len(visible)
    hidden = min(unseen * min(probabilities.values()), max(0.0, 1.0 - total))
    if hidden > MAX_HIDDEN_SHIFT * (mass + hidden):
        raise BadResponse(
            f"expected the probabilities of all six digits, or of enough tokens to bound the missing ones; got "
            f"{len(visible)} ({shares}) among {len(logprobs)} tokens, and the others may hold {hidden:.3g}"
        )
    return math.fsum(s * p for s, p in visible.items()) / mass / (len(digit_ids) - 1)


def excerpt(text: str, limit: int = 160) -> str:
    """A text on one line for an error message: its beginning and its end where it is longer than `limit`."""
    if not text.strip():
        return "no text"
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"


def _no_pair(text: str, why: str) -> BadResponse:
    return BadResponse(
        f'expected {{"reasoning": "...", "score": [a, b]}} with two numbers from 0 to {PAIR_RANGE}; '
        f"got {excerpt(text)}: {why}"
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
