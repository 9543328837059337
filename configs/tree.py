"""The configuration tree as data: every section and key with its type, default and meaning.

Read from the schema, so that help, suggestions and merging never disagree with what is accepted.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from configs.schema import RunConfig

REQUIRED = object()
"""The default of a key without one."""


@dataclass(frozen=True)
class Key:
    """One setting: its dotted path, how its type reads, its default (or `REQUIRED`), and its docstring."""

    path: str
    kind: str
    default: Any
    doc: str


@dataclass(frozen=True)
class SectionKeys:
    """One section; `variant` is (discriminator path, value) if it exists only with that value."""

    path: str
    doc: str
    variant: tuple[str, str] | None
    keys: tuple[Key, ...]


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone; `Annotated` is stripped."""
    found = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(get_args(member)[0] if get_origin(member) is Annotated else member for member in found)


def is_section(annotation: Any) -> bool:
    """Whether a field of this type is a section rather than a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def variants(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The models of a section by discriminator value; empty for any other field."""
    if not isinstance(field.discriminator, str):
        return {}
    name = field.discriminator
    return {model.model_fields[name].default: model for model in members(field.annotation)}


def default_of(field: FieldInfo) -> Any:
    """The default as plain data (sections as mappings), or `REQUIRED`."""
    if field.default is PydanticUndefined:
        return REQUIRED
    if isinstance(field.default, BaseModel):
        return field.default.model_dump(mode="json")
    return field.default


def type_words(annotation: Any) -> str:
    """A type as worded in help and messages: `whole number`, `euler | dpm2m`, `list of whole numbers`."""
    words = {int: "whole number", float: "number", str: "text", bool: "true | false", type(None): "null"}
    if annotation in words:
        return words[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list of {type_words(arguments[0])}s"
    if origin is tuple:
        return f"list of {len(arguments)} {type_words(arguments[0])}s"
    if origin is dict:
        return f"mapping of {type_words(arguments[0])} to {type_words(arguments[1])}"
    if len(members(annotation)) > 1:
        return " | ".join(type_words(member) for member in members(annotation))
    return str(annotation)


def sections(
    model: type[BaseModel] = RunConfig,
    path: str = "",
    variant: tuple[str, str] | None = None,
    default: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[SectionKeys]:
    """Every section in schema order, the root (path "") first; `default` is that of the section's place."""
    keys: list[Key] = []
    below: list[tuple[Any, str, tuple[str, str] | None, Mapping[str, Any]]] = []
    for name, field in model.model_fields.items():
        dotted = join(path, name)
        if choices := variants(field):
            below += [
                (choice, dotted, (join(dotted, str(field.discriminator)), tag), {}) for tag, choice in choices.items()
            ]
        elif is_section(field.annotation):
            below.append((field.annotation, dotted, variant, default.get(name) or default_of(field)))
        else:
            kind = type_words(field.annotation)
            value = default[name] if name in default else default_of(field)
            keys.append(Key(dotted, kind, value, " ".join((field.description or "").split())))
    yield SectionKeys(path, " ".join((model.__doc__ or "").split()), variant, tuple(keys))
    for part in below:
        yield from sections(*part)


def known_paths() -> list[str]:
    """Every dotted path that a config may set, sections and keys, without duplicates."""
    found = [path for section in sections() for path in (section.path, *(key.path for key in section.keys))]
    return list(dict.fromkeys(path for path in found if path))


def find_field(names: list[str]) -> tuple[FieldInfo | None, int]:
    """The field at a dotted path, and how many of its names lead there (the rest are a mapping's keys).

    (None, 0) if there is no such field.
    """
    models: list[type[BaseModel]] = [RunConfig]
    for depth, name in enumerate(names, start=1):
        found = [model.model_fields[name] for model in models if name in model.model_fields]
        if not found:
            return None, 0
        info = found[0]
        if choices := variants(info):
            models = list(choices.values())
        elif is_section(info.annotation):
            models = list(dict.fromkeys(field.annotation for field in found))  # type: ignore[misc]
        elif depth == len(names) or (get_origin(info.annotation) is dict and names[depth]):
            return info, depth
        else:
            return None, 0
    return info, len(names)


def join(path: str, name: str) -> str:
    """`path.name`, or `name` at the root."""
    return f"{path}.{name}" if path else name


def tag_of(field: FieldInfo, values: Any) -> str:
    """The discriminator's value in `values`, or that of the default variant."""
    name, default = str(field.discriminator), default_of(field)
    given = values if isinstance(values, Mapping) and name in values else default
    return str(given[name]) if isinstance(given, Mapping) else ""
