"""`python -m editing.validate FILE`: checks a manifest and prints what it found."""

import argparse
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from editing.manifest.dataset import Fault, ManifestDataset, ManifestError
from editing.masks import POLARITIES


def summary_table(dataset: ManifestDataset) -> Table:
    """A table for a terminal: counts, sizes, editable shares, texts."""
    items = dataset.items
    shares = sorted(item.editable for item in items)
    heights, widths = [i.height for i in items], [i.width for i in items]
    polarities = sorted({item.record.polarity for item in items})
    table = Table("", "", title=f"{dataset.path.name}: {len(dataset)} tasks", show_header=False)
    rows = {
        "valid lines": f"{len(dataset)}",
        "faulty lines": f"{len(dataset.faults)}",
        "height": f"{min(heights)} to {max(heights)}",
        "width": f"{min(widths)} to {max(widths)}",
        "editable share": f"{shares[0]:.1%} to {shares[-1]:.1%}, median {statistics.median(shares):.1%}",
        "mask polarity": ", ".join(polarities),
        "with target": f"{sum(i.record.target is not None for i in items)}",
        "with caption": f"{sum(i.record.caption is not None for i in items)}",
        "fingerprint": dataset.fingerprint[:16],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def fault_table(faults: tuple[Fault, ...]) -> Table:
    """A table for a terminal: line, id and reason of each fault."""
    table = Table("line", "id", "reason", title=f"{len(faults)} faulty lines")
    for fault in faults:
        # Text, because what a user's file says must not be read as markup.
        table.add_row(str(fault.line), Text(fault.task_id or ""), Text(fault.reason))
    return table


def main(arguments: list[str] | None = None) -> int:
    """Checks a manifest and prints what it found; 0 when it can be used, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m editing.validate", description="Check a manifest.")
    parser.add_argument("manifest", type=Path, help="the JSONL file")
    parser.add_argument("--mask-polarity", choices=POLARITIES, help="for lines that do not state their own")
    parser.add_argument(
        "--root", type=Path, help="folder that the paths start from (default: see the header)"
    )
    parser.add_argument("--max-faulty-fraction", type=float, default=0.05, help="default 0.05")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        dataset = ManifestDataset(
            options.manifest,
            mask_polarity=options.mask_polarity,
            root=options.root,
            max_faulty_fraction=options.max_faulty_fraction,
        )
    except ManifestError as error:
        if error.faults:
            console.print(fault_table(error.faults))
        console.print(Text(str(error).splitlines()[0], style="red"))
        return 1
    console.print(summary_table(dataset))
    if dataset.faults:
        console.print(fault_table(dataset.faults))
    return 0


if __name__ == "__main__":
    sys.exit(main())
