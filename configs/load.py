"""Command-line parsing: from arguments to one validated configuration.

    python -m learner.main [--config NAME_OR_PATH] [--section.key VALUE ...] [--dry-run]
                           [--resume [--allow-changed KEY ...]]

Layers, each overriding the one before: the schema's defaults, the YAML file (after those that it `extends`), the
flags. A configuration written by a run takes its name from the run's folder. Every fault is one sentence with the key,
what was expected, what it got, and the file or flag that set it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from configs.errors import ConfigError, nearest
from configs.layers import Layers, find_config, parse_yaml, refuse_tokens, unknown_key
from configs.run_files import hash_in, run_of
from configs.schema import RunConfig
from configs.text import shown
from configs.tree import default_of, find_field, known_paths, members, sections
from configs.validate import validated

DEFAULT_PRESET = "quickstart"
SWITCHES = ("dry-run", "resume")
ALLOW = "allow-changed"
OWN_FLAGS = ("config", *SWITCHES, ALLOW)
"""The flags that are no keys of the configuration."""
CODE = "code"
"""What `--allow-changed` accepts besides configuration keys and sections: sources and libraries."""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line: a configuration, and whether to print it only or to resume its run.

    `named`: the name was given as a flag, so exactly that name is wanted. `allowed`: keys or sections that may differ
    in the resumed run, or `code`. `copied`: with --resume, the configuration of a file that is an unchanged copy of one
    written by a run, found outside any run folder, when no flag says which run is meant.
    """

    config: RunConfig
    dry_run: bool
    resume: bool
    named: bool
    allowed: tuple[str, ...] = ()
    copied: RunConfig | None = None


def load_config(argv: Sequence[str]) -> RunConfig:
    """The configuration for these arguments (without the program's name); see `parse_command_line`."""
    return parse_command_line(argv).config


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """The validated configuration and switches for these arguments (without the program's name).

    Raises:
        ConfigError: invalid arguments, files or values, with all faults found in that stage.
    """
    config_flag, switches, overrides, allowed = DEFAULT_PRESET, set(), [], []
    for flag, value in _flags(argv):
        if flag == "config":
            config_flag = _needed(flag, value)
        elif flag in SWITCHES:
            if value is not None:
                raise ConfigError(f"--{flag}: expected no value, got {shown(value)}")
            switches.add(flag)
        elif flag == ALLOW:
            allowed.append(_key_or_section(_needed(flag, value)))
        else:
            overrides.append((flag.replace("-", "_"), f"--{flag}", _needed(flag, value)))
    if allowed and "resume" not in switches:
        raise ConfigError(f"--{ALLOW}: applies to a resumed run only; add --resume, or leave it out")
    file = find_config(config_flag, "--config")
    layers = Layers()
    layers.add_file(file)
    # A file without a name is named after itself, so that two configs do not share a run folder.
    if "name" not in layers.values:
        layers.add({"name": file.stem}, f"the name of {file}")
    run, flags = run_of(file), {path for path, _, _ in overrides}
    layers.add(run, f"the folder of {file}")
    copied = None
    if "resume" in switches and not run and not flags & {"name", "folder"} and (written := hash_in(file)):
        copied = validated(layers)
        if config_hash(copied) != written:  # edited since: a configuration in its own right
            copied = None
    _add_overrides(layers, overrides)
    return CommandLine(
        validated(layers),
        dry_run="dry-run" in switches,
        resume="resume" in switches,
        named="name" in flags,
        allowed=tuple(allowed),
        copied=copied,
    )


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(flag without dashes, value or None) pairs from `--flag value`, `--flag=value` and `--switch`."""
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            near = nearest(word.lstrip("-"), SWITCHES)
            hint = f"did you mean --{near}?" if near else "--help shows examples"
            raise ConfigError(f"{shown(word)}: expected a flag such as --learner.steps 20; {hint}")
        flag, equals, value = word[2:].partition("=")
        if equals:
            yield flag, value
        elif flag in SWITCHES or not rest or rest[0].startswith("--"):
            yield flag, None
        else:
            yield flag, rest.pop(0)


def _needed(flag: str, value: str | None) -> str:
    if value is None:
        if flag not in OWN_FLAGS and (near := _own_flag(flag)):
            raise ConfigError(f"--{flag}: unknown flag; did you mean --{near}?")
        raise ConfigError(f"--{flag}: expected a value after it; write --{flag} VALUE")
    refuse_tokens(value, f"--{flag}")
    return value


def _own_flag(flag: str) -> str:
    """The flag of the command itself that was probably meant, or an empty string where it looks like a key."""
    return "" if "." in flag else nearest(flag, OWN_FLAGS)


def _key_or_section(text: str) -> str:
    """A validated argument of `--allow-changed`: a key, a section, or one entry of a mapping."""
    path = text.replace("-", "_")
    names = path.split(".")
    sections_of_keys = {section.path for section in sections()}
    if path == CODE or path in sections_of_keys or find_field(names)[0] is not None:
        return path
    raise ConfigError(f"--{ALLOW} {text}: {unknown_key(path).partition(': ')[2]}")


def _add_overrides(layers: Layers, overrides: list[tuple[str, str, str]]) -> None:
    faults: list[str] = []
    # The type of a section with variants goes first: it decides which of the file's keys are kept.
    for path, label, text in sorted(overrides, key=lambda entry: not entry[0].endswith(".type")):
        try:
            _add_override(layers, path, label, text)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)


def _add_override(layers: Layers, path: str, label: str, text: str) -> None:
    names = path.split(".")
    info, depth = find_field(names)
    if info is None:
        if not nearest(path, known_paths()) and (near := _own_flag(label.removeprefix("--"))):
            raise ConfigError(f"{label}: unknown flag; did you mean --{near}?")
        raise ConfigError(f"{label}: {unknown_key(path).partition(': ')[2]}")
    current: Any = layers.values
    for name in names[:depth]:
        current = current.get(name, {}) if isinstance(current, dict) else {}
    value = _typed(text, label, info if depth == len(names) else None)
    if depth < len(names):  # one entry of a mapping, such as rewards.weights.acd
        value = {**(current or default_of(info)), ".".join(names[depth:]): value}
    for name in reversed(names[:depth]):
        value = {name: value}
    layers.add(value, label, [path, ".".join(names[:depth])])


def _typed(text: str, label: str, info: FieldInfo | None) -> Any:
    """The value of a flag: text if the key takes text, otherwise YAML (a superset of JSON)."""
    parts = members(info.annotation) if info is not None else ()
    literals = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    if str in parts or any(isinstance(value, str) for value in literals):
        return None if type(None) in parts and text in ("null", "~") else text
    return parse_yaml(text, label)


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML that `--config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def config_hash(config: RunConfig) -> str:
    """sha256 (hex) of the configuration's canonical JSON without its name and folder.

    Equal exactly when two runs do the same work, wherever it is written.
    """
    values = config.model_dump(mode="json", exclude={"name", "folder"})
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
