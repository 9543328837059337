"""The base class of every configuration section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A closed, immutable part of the configuration whose field docstrings are its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_the_default_of_the_rest(cls, values: Any) -> Any:
        """A section that is given in part keeps, of the rest, the default of its place, which need not be that of its
        class: every method has preservation weights of its own."""
        if not isinstance(values, Mapping):
            return values
        whole = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if field is None or not isinstance(field.default, Section) or not isinstance(value, Mapping):
                continue
            if isinstance(tag := field.discriminator, str):
                whole[name] = {tag: getattr(field.default, tag), **value}
            else:
                whole[name] = {**field.default.model_dump(exclude_unset=True), **value}
        return whole
