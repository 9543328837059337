"""Validation of merged layers: a configuration, or one sentence per fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from configs.errors import ConfigError, expectation
from configs.layers import Layers
from configs.schema import RunConfig
from configs.text import shown
from configs.tree import find_field, members, tag_of, type_words, variants


def validated(layers: Layers) -> RunConfig:
    """The validated configuration of the layers.

    Raises:
        ConfigError: one sentence per fault.
    """
    faults = [_sentence(path, "a number", value, layers) for path, value in _flags_for_numbers(layers.values)]
    if faults:
        raise ConfigError(*faults)
    try:
        return RunConfig.model_validate(layers.values)
    except ValidationError as error:
        raise ConfigError(*(_fault(detail, layers) for detail in error.errors())) from error


def _flags_for_numbers(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every boolean in place of a number (pydantic would read it as 1 or 0)."""
    items: Any = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in items:
        here = (*path, str(name))
        if isinstance(value, dict | list):
            yield from _flags_for_numbers(value, here)
        elif isinstance(value, bool):
            info, _ = find_field(list(here))
            if info is None or bool not in members(info.annotation):
                yield ".".join(here), value


def _fault(error: ErrorDetails, layers: Layers) -> str:
    if error["type"] == "value_error":  # our validators: the message begins with its key
        sentence = error["msg"].removeprefix("Value error, ")
        return f"{sentence} (set by {layers.origin(sentence.partition(':')[0])})"
    location = [str(part) for part in error["loc"]]
    section = RunConfig.model_fields[location[0]]
    if variants(section):
        return _variant_fault(error, section, location[0], location[2:], layers)
    info, _ = find_field(location)
    if info is None:  # an entry of a list
        location.pop()
        info, _ = find_field(location)
    path, expected = ".".join(location), expectation(error)
    if error["type"] in ("missing", "too_short", "too_long") and info is not None:
        expected = f"a {type_words(info.annotation)}"
    return _sentence(path, expected, error["input"], layers)


def _variant_fault(error: ErrorDetails, section: FieldInfo, name: str, below: list[str], layers: Layers) -> str:
    """The message for a section with variants; `below` is the location inside the variant."""
    path, choices = ".".join([name, *below]), variants(section)
    if not below and error["type"] != "union_tag_invalid":
        return _sentence(name, "a section of keys and values", error["input"], layers)
    where, tag = f"{name}.{section.discriminator}", tag_of(section, layers.values.get(name))
    if error["type"] == "extra_forbidden":
        owners = [value for value, model in choices.items() if below[0] in model.model_fields]
        return (
            f"{path}: expected only with {where} {' or '.join(owners)}, but {where} is {tag} "
            f"(set by {layers.origin(path)}); add --{where} {owners[0]} or remove it"
        )
    if error["type"] == "missing":
        return f"{path}: expected a value, got none; {where} {tag} requires one, for example --{path} VALUE"
    if error["type"] == "union_tag_invalid":
        return _sentence(where, " or ".join(choices), tag, layers)
    return _sentence(path, expectation(error), error["input"], layers)


def _sentence(path: str, expected: str, got: Any, layers: Layers) -> str:
    return f"{path}: expected {expected}, got {shown(got)} (set by {layers.origin(path)})"
