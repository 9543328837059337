"""Faulty lines of a manifest, and their summary: grouped by reason, with the first line numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 10
"""Number of reasons shown, and of line numbers per reason."""

# What differs from line to line in a reason: the value after "got", quoted text (maybe truncated), words with a digit
# or slash.
_SPECIFIC = re.compile(r"""(?<=, got ).*|(?<!\w)(['"])(?:\\.|(?!\1).)*(?:\1|$)|\S*[\d/]\S*""")


@dataclass(frozen=True)
class Fault:
    """A skipped line: its number (1-based), its id if it has one, and the reason."""

    line: int
    task_id: str | None
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}{f' ({self.task_id})' if self.task_id else ''}: {self.reason}"

    @property
    def kind(self) -> str:
        """The reason without details of this line: equal for lines with the same kind of fault."""
        reason = self.reason.replace(self.task_id, "…") if self.task_id else self.reason
        return _SPECIFIC.sub("…", reason)


def grouped(faults: Sequence[Fault]) -> list[str]:
    """One sentence per kind of fault, most frequent first, at most ten; each names up to ten lines.

    12 lines whose source is missing and one that is no JSON give

        12 lines (2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more): source must be a file; 'a.png' is none under /data.
        line 40: the line must be one JSON object; Expecting value at column 1.

    where the reason is the first line's.
    """
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    groups = sorted(kinds.values(), key=len, reverse=True)
    sentences = [_sentence(group) for group in groups[:SHOWN]]
    if rest := groups[SHOWN:]:
        lines = sum(map(len, rest))
        sentences.append(
            f"and {lines:,} more line{'s' * (lines > 1)} for {len(rest):,} other reason{'s' * (len(rest) > 1)}"
        )
    return sentences


def _sentence(group: Sequence[Fault]) -> str:
    if len(group) == 1:
        return str(group[0])
    numbers = ", ".join(str(fault.line) for fault in group[:SHOWN])
    more = f" and {len(group) - SHOWN:,} more" if len(group) > SHOWN else ""
    return f"{len(group):,} lines ({numbers}{more}): {group[0].reason}"


@dataclass(frozen=True)
class FaultyLines:
    """The faulty lines of one manifest.

    Attributes:
        path: of the manifest.
        faults: its faulty lines, in order.
        command: what to type to see every one of them.
    """

    path: str
    faults: tuple[Fault, ...]
    command: str

    def __len__(self) -> int:
        return len(self.faults)

    def sentences(self) -> list[str]:
        """One sentence per line, with the manifest's path."""
        return [f"{self.path}, {fault}" for fault in self.faults]
