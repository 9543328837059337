"""Request and response bodies as JSON. Images travel inside the request: never as URLs or paths."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from configs.text import one_line
from editing.masks import MaskPolarity
from rewards.service.refusal import Refusal

MAX_RLE = 1_000_000
"""Longest `counts` of a run-length mask, in characters (compressed) or numbers."""
MAX_ITEMS = 100_000
"""Most values in a request. A small body can hold millions of empty lists, which take far more memory than itself."""

EncodedImage = Annotated[
    str, Field(min_length=1, json_schema_extra={"format": "byte"}, description="A PNG, JPEG or WebP file in base64.")
]


Count = Annotated[int, Field(ge=0, le=2**31)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _kind_of_counts(value: Any) -> str:
    return "is:text" if isinstance(value, str) else "is:numbers"


class Rle(_Closed):
    """A run-length mask as COCO writes it: runs go down the columns and start with zeros."""

    size: list[Count] = Field(min_length=2, max_length=2)
    """[height, width] of the source."""
    counts: Annotated[
        Annotated[str, Field(max_length=MAX_RLE), Tag("is:text")]
        | Annotated[list[Count], Field(max_length=MAX_RLE, fail_fast=True), Tag("is:numbers")],
        Discriminator(_kind_of_counts),
    ]
    """The runs: COCO's compressed string, or the numbers themselves."""


class PngMask(_Closed):
    """A black-and-white PNG of the source's size, and which of the two colours may be edited."""

    png: EncodedImage
    polarity: MaskPolarity


class RleMask(_Closed):
    """A run-length mask; 1 = may be edited."""

    rle: Rle


def _kind_of_mask(value: Any) -> str:
    return "is:rle" if isinstance(value, dict) and "rle" in value else "is:png"


class ScoreRequest(_Closed):
    """One source image and any number of candidates that all edit it by the same instruction."""

    source: EncodedImage
    edited: list[EncodedImage] = Field(min_length=1, fail_fast=True)
    """The candidates, each of the source's size."""
    instruction: str = Field(min_length=1)
    """What was to be done, in natural language."""
    mask: Annotated[Annotated[PngMask, Tag("is:png")] | Annotated[RleMask, Tag("is:rle")], Discriminator(_kind_of_mask)]
    """Where the image may change."""
    target: EncodedImage | None = None
    """The wanted image, where it is known; `edit_psnr` needs it."""
    caption: str | None = Field(None, min_length=1)
    """A description of the wanted image."""


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ComponentScore(_Response):
    """A value or an error, exactly one of the two; `passes` are the single responses that the value is the mean of."""

    value: float | None
    error: str | None
    passes: list[float]


class ScoreResponse(_Response):
    """Scores of every candidate, in the order of `edited`."""

    components: dict[str, list[ComponentScore]]
    """Raw scores by component, in its own unit, one per candidate."""
    rewards: list[float | None]
    """The combination of a candidate's raw scores under `rewards.weights` and `rewards.composition` (by default their
    weighted sum), never normalised (that needs the groups of a whole step); null when any of its components is an
    error."""


class Problem(_Response):
    """Why a request got no scores."""

    detail: str


_EXAMPLE_SOURCE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mO8c+cOAzbAxIADDE4JAAWeAqSYop5wAAAAAElFTkSuQmCC"
)
_EXAMPLE_EDITED = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAIUlEQVR42mO8c+cOAwPDGycnBgYGkX37GGCAiQEHGJwSADxcBaSeYXArAA"
    "AAAElFTkSuQmCC"
)
EXAMPLE: dict[str, Any] = {
    "source": _EXAMPLE_SOURCE,
    "edited": [_EXAMPLE_EDITED],
    "instruction": "draw a red bar on the left",
    "mask": {"rle": {"size": [8, 8], "counts": [16, 16, 32]}},
}
"""A request as it is shown on the OpenAPI page: an 8 × 8 image that gets a red bar in columns 2 and 3."""


def parse(body: bytes | bytearray) -> ScoreRequest:
    """The request in a JSON body.

    Raises:
        Refusal: 400 when it is no JSON, 413 when it holds too many values, 422 when a field is wrong or missing.
    """
    # Base64 has no brackets and commas, so this counts what the parser would have to allocate.
    items = body.count(b",") + body.count(b"[") + body.count(b"{")
    if items > MAX_ITEMS:
        raise Refusal(
            413,
            f"The request holds about {items:,} values; at most {MAX_ITEMS:,} are read. Send a ragged "
            "mask as a PNG or as a compressed run-length string.",
        )
    try:
        return ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None  # `error` holds the body's values, which no log shall see


def _refusal(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Refusal(400, f"The body must be a JSON object; it cannot be read: {one_line(first['msg'], 120)}.")
    where = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return Refusal(
            422,
            f"{where}: unknown field. Expected source, edited, instruction and mask (png with polarity "
            "or rle), and optionally target and caption.",
        )
    if first["type"] == "missing":
        return Refusal(422, f"{where}: expected, but not there.")
    said = one_line(first["msg"], 120)
    return Refusal(422, f"{where}: {said[:1].lower()}{said[1:]}.")


def _path(location: tuple[int | str, ...]) -> str:
    """`edited[3]`, `mask.rle.size`: the place in the request, whatever keys it made up shortened."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith("is:"):  # the tag of a variant, which is not in the request
            text += f".{one_line(part)}"
    return text.removeprefix(".") or "The body"
