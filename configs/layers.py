"""Merging of YAML files and command-line overrides into one mapping that records where each value was set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from configs.errors import ConfigError, nearest
from configs.paths import TOKEN, expanded
from configs.schema import RunConfig
from configs.text import shown
from configs.tree import is_section, join, known_paths, tag_of, variants

PRESETS = Path(__file__).parent / "presets"


class _Loader(yaml.SafeLoader):
    """A YAML loader with YAML 1.2 scalars (1e-4 is a number, `off` is text), unique keys and no aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"line {line}: aliases (*name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"line {line}: expected keys that are text, got {key!r}")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"line {line}: the key {key!r} appears {keys.count(key)} times")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^({_pattern})$"), _first)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text; `name` identifies its source in messages."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{where}: expected YAML, {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: expected YAML, {str(error).splitlines()[0]}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: expected a simple YAML mapping, {str(error).splitlines()[0]}") from error


def refuse_tokens(text: str, name: str) -> None:
    """Raise if the text contains what looks like an access token; the token itself is not repeated."""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := TOKEN.search(line):
            where = f"{name}, line {number}" if "\n" in text else name
            raise ConfigError(
                f"{where}: expected no secrets, got what looks like an access token ({found[0][:3]}...). Remove "
                "it (and revoke it if it was exposed); tokens come from the environment only, such as HF_TOKEN"
            )


def preset_names() -> list[str]:
    """The names that --config accepts."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find_config(name_or_path: str, label: str, beside: Path | None = None) -> Path:
    """The file for a preset name or a path (relative to the current folder, or to `beside`)."""
    name = name_or_path.replace("-", "_")
    if name in preset_names():
        return PRESETS / f"{name}.yaml"
    try:
        path = (beside or Path()) / expanded(name_or_path)
    except ValueError as error:
        raise ConfigError(f"{label} {name_or_path}: expected {error}") from error
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        raise ConfigError(f"{label} {name_or_path}: expected a YAML file, but {path} does not exist")
    near = nearest(name, preset_names())
    hint = f"; did you mean {near}?" if near else f"; presets are {', '.join(preset_names())}"
    raise ConfigError(f"{label} {name_or_path}: expected a preset or the path of a YAML file{hint}")


@dataclass
class Layers:
    """Merged values and, for each dotted path, the file or flag that last set it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add_file(self, path: Path, above: tuple[Path, ...] = ()) -> None:
        """Add a YAML file as the top layer, after the file that it extends."""
        if path.resolve() in above:
            raise ConfigError(f"{_label(path)}: expected no cycle in `extends`, but it leads back to this file")
        values, label = _read_mapping(path), _label(path)
        base = values.pop("extends", None)
        if base is not None:
            if not isinstance(base, str):
                raise ConfigError(f"{label}: extends: expected one preset name or path, got {shown(base)}")
            self.add_file(find_config(base, f"{label}: extends:", path.parent), (*above, path.resolve()))
        self.add(values, label)

    def add(self, values: Mapping[str, Any], origin: str, paths: Iterable[str] | None = None) -> None:
        """Add values as the top layer; `paths` are attributed to `origin` (None: all of `values`).

        Raises:
            ConfigError: unknown keys, with the nearest known one.
        """
        faults = tuple(f"{origin}: {fault}" for fault in _unknown(RunConfig, values, ""))
        if faults:
            raise ConfigError(*faults)
        self.values = merged(RunConfig, self.values, values)
        self.origins.update(dict.fromkeys(_paths(values, "") if paths is None else paths, origin))

    def origin(self, path: str) -> str:
        """Where the value at a dotted path (or its nearest ancestor) was set, or "the defaults"."""
        while path and path not in self.origins:
            path = path.rpartition(".")[0]
        return self.origins.get(path, "the defaults")


def _label(path: Path) -> str:
    """The path for messages: relative if it is inside the current folder."""
    here = Path.cwd()
    return str(path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path)


def _read_mapping(path: Path) -> dict[str, Any]:
    label = _label(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{label}: expected a readable file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: expected UTF-8 text, got an invalid byte at offset {error.start}") from error
    refuse_tokens(text, label)
    values = parse_yaml(text, label)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{label}: expected keys and values, got {shown(values)}")
    return values


def merged(model: type[BaseModel], lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` merged over `lower`: sections key by key, any other value (mappings and lists too) as a whole.

    If `upper` switches the type of a section with variants, the fields of the old variant are dropped.
    """
    result = dict(lower)
    for name, value in upper.items():
        info, below = model.model_fields.get(name), result.get(name)
        if info is None:  # of another variant: refused when all layers are validated
            result[name] = value
            continue
        below = below if isinstance(below, Mapping) else {}
        if not isinstance(value, Mapping):
            result[name] = value
        elif is_section(info.annotation):
            result[name] = merged(info.annotation, below, value)  # type: ignore[arg-type]
        elif choices := variants(info):
            tag = tag_of(info, {**below, **value})
            kept = below if tag == tag_of(info, below) else {}
            chosen = {str(info.discriminator): tag, **value}
            # An unknown type is refused when all layers are validated.
            result[name] = merged(choices[tag], kept, chosen) if tag in choices else {**kept, **chosen}
        else:
            result[name] = value
    return result


def _unknown(model: type[BaseModel], values: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, value in values.items():
        dotted = join(path, name)
        if name not in model.model_fields:
            yield unknown_key(dotted)
            continue
        info = model.model_fields[name]
        if isinstance(value, Mapping) and is_section(info.annotation):
            yield from _unknown(info.annotation, value, dotted)  # type: ignore[arg-type]
        elif isinstance(value, Mapping) and variants(info):
            # A key of another variant is known; whether it applies is decided after merging.
            choices = variants(info).values()
            for key, inner in value.items():
                owners = [choice for choice in choices if key in choice.model_fields]
                if not owners:
                    yield unknown_key(join(dotted, key))
                elif isinstance(inner, Mapping) and is_section(owners[0].model_fields[key].annotation):
                    yield from _unknown(owners[0].model_fields[key].annotation, inner, join(dotted, key))  # type: ignore[arg-type]


def unknown_key(path: str) -> str:
    """The message for an unknown key."""
    known = known_paths()
    if path in known:
        return f"{path}: expected nested sections; write {_nested(path)}"
    near = nearest(path, known)
    return f"{path}: unknown key; " + (f"did you mean {near}?" if near else "--help lists every key")


def _nested(path: str) -> str:
    first, *rest = path.split(".")
    return first + "".join(f": {{{part}" for part in rest) + ": ..." + "}" * len(rest)


def _paths(values: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, value in values.items():
        yield join(path, name)
        if isinstance(value, Mapping):
            yield from _paths(value, join(path, name))
