"""Results of the doctor's checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: the check, its result, and what to type or change unless it is ok."""

    check: str
    level: Level
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class NodeReport:
    """All findings on one machine; `versions` and `judge_environment` are compared across machines."""

    node: str
    findings: tuple[Finding, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    judge_environment: bool = False
