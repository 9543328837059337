"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was seen, and what to type or change unless it is ok."""

    check: str
    level: Level
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class NodeReport:
    """What was found on one machine; `versions` and `judge_environment` are compared between machines."""

    node: str
    findings: tuple[Finding, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    judge_environment: bool = False
