"""The numbers of RC-GRPO-Editing (arXiv 2604.09386 v1), and where ours differ from them, in a sentence.

Its tables are CompBench's local edits (982 add, 1,331 remove and 152 replace items) with FLUX.1-Kontext-dev, and give
no intervals. Ours are the embedded benchmark, so that no value is compared: only the direction of a step from row to
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.significance import RowDifference


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        source: where it stands.
        rows: by the name of our row (`base`: before training), the paper's metrics.
        steps: pairs of rows whose difference the table shows.
    """

    source: str
    rows: Mapping[str, Mapping[str, float]]
    steps: tuple[tuple[str, str], ...]


COUNTERPARTS: Mapping[str, str] = {
    "LC-T": "edit_score",
    "LC-I": "edit_psnr",
    "PSNR": "background_psnr",
    "SSIM": "background_ssim",
    "LPIPS": "background_pyramid",
}
"""Our metric that asks what one of the paper's asks: CLIP of the edited crop against its caption, and against the true
crop; PSNR, SSIM and a distance over several scales outside the mask."""


def _row(*values: float) -> dict[str, float]:
    return dict(zip(("LC-I", "LC-T", "PSNR", "SSIM", "LPIPS"), values, strict=True))


TABLE2 = PaperTable(
    "arXiv 2604.09386 v1, Table 2",
    {
        "base": _row(0.818, 21.027, 24.585, 0.890, 0.071),
        "global": _row(0.820, 21.529, 24.384, 0.884, 0.074),
        "rdp": _row(0.821, 21.540, 24.788, 0.893, 0.070),
        "rdp_acd": _row(0.822, 21.548, 24.952, 0.897, 0.068),
    },
    (("base", "global"), ("global", "rdp"), ("rdp", "rdp_acd"), ("global", "rdp_acd"), ("base", "rdp_acd")),
)

BANDWIDTHS: Mapping[str, tuple[float, float]] = {
    "tau_1_1": (1.0, 1.0),
    "tau_.9_1.1": (0.9, 1.1),
    "tau_.8_1.2": (0.8, 1.2),
    "tau_1.2_.8": (1.2, 0.8),
}
"""(tau_edit, tau_base) of the rows of Table 3; the second is the full method."""

TABLE3 = PaperTable(
    "arXiv 2604.09386 v1, Table 3 (bandwidths)",
    {
        "tau_1_1": _row(0.821, 21.533, 24.906, 0.896, 0.069),
        "tau_.9_1.1": _row(0.822, 21.548, 24.952, 0.897, 0.068),
        "tau_.8_1.2": _row(0.819, 21.640, 24.726, 0.883, 0.072),
        "tau_1.2_.8": _row(0.821, 21.499, 24.996, 0.902, 0.068),
    },
    (("tau_1_1", "tau_.9_1.1"), ("tau_.9_1.1", "tau_.8_1.2"), ("tau_.9_1.1", "tau_1.2_.8")),
)


def pairs(table: PaperTable) -> list[tuple[str | None, str]]:
    """The table's steps as pairs of `evaluation.significance`: the base is None there."""
    return [(None if before == "base" else before, after) for before, after in table.steps]


def disagreements(table: PaperTable, found: Sequence[RowDifference]) -> list[str]:
    """A sentence per step of the table in which a metric of ours goes another way than its counterpart, or in which no
    difference was found where the paper has one; none where all agree.

    Metrics that the paper's step leaves as they are, to its last digit, are not looked at.
    """
    sentences = []
    for before, after in table.steps:
        parts = []
        for theirs, ours in COUNTERPARTS.items():
            reported = round(table.rows[after][theirs] - table.rows[before][theirs], 6)
            mine = next(
                (one for one in found if (one.metric, one.before or "base", one.after) == (ours, before, after)), None
            )
            if reported != 0 and mine is not None and mine.sign != (1 if reported > 0 else -1):
                parts.append(f"{theirs} {reported:+.3f}, here {ours} {_in_words(mine)}")
        if parts:
            sentences.append(f"From {before} to {after} the paper reports " + "; ".join(parts) + ".")
    return sentences


def _in_words(mine: RowDifference) -> str:
    difference = mine.difference
    interval = "one seed" if difference.low is None else f"{difference.low:+.4g} … {difference.high:+.4g}"
    verdict = "no difference found" if mine.sign == 0 else "the opposite"
    return f"{difference.mean:+.4g} ({interval}): {verdict}"
