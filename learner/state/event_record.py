"""The base of the event log's records: field types, and messages for records that do not fit.

`learner.state.event_types` has the events themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from configs.errors import expectation
from configs.text import shown

LARGEST = 10**12
"""No count, number or process id of a run is larger."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=LARGEST)]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,128}$")]
LocusVersion = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+]{0,63}$")]
GroupId = Annotated[
    str, StringConstraints(pattern=r"^([0-9]{6}|[1-9][0-9]{6,11})\.([0-9]{3}|[1-9][0-9]{3,11})\.(0|[1-9][0-9]{0,11})$")
]
"""See `editing.trajectory.Lease.group_id`: step, slot and attempt."""


MAX_TOLD = 5
"""Faulty fields of one event that a sentence names."""


class EventError(ValueError):
    """An event that is not described here, or not as it is described; the sentence names every field."""


class Record(BaseModel):
    """The fields of an event. `strict`: nothing is converted, a number as text is a fault."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


R = TypeVar("R", bound=Record)


def validated(kind: type[R], fields: Mapping[str, Any]) -> R:
    """A record of that kind.

    Raises:
        EventError: when the fields are not as described.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise EventError("; ".join(_sentence(detail) for detail in error.errors()[:MAX_TOLD])) from error


def _sentence(detail: ErrorDetails) -> str:
    field = ".".join(str(part)[:80] for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{field}: expected a value, got none"
    expected = "no such field" if detail["type"] == "extra_forbidden" else expectation(detail)
    return f"{field}: expected {expected}, got {shown(detail['input'])}"
