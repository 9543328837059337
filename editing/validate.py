"""`python -m editing.validate FILE`: checks a manifest and prints what it found."""

import argparse
import statistics
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.commands import command
from configs.output import protect_output
from configs.paths import path_argument
from editing.manifest.dataset import ManifestDataset, ManifestError
from editing.manifest.faults import Fault, grouped
from editing.manifest.notes import SUSPICIOUS, counts
from editing.manifest.repeats import image_groups, repeated
from editing.manifest.sheet import write_sheet
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
        "with ranked edits": f"{sum(bool(i.record.ranked) for i in items)}",
        "with caption": f"{sum(i.record.caption is not None for i in items)}",
        "images": f"{len(image_groups(items))}",
        "repeat an earlier task": f"{len(repeated(items))}",
        "fingerprint": dataset.fingerprint[:16],
        **{str(note): f"{count}" for note, count in counts(item.notes for item in items).items()},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def print_faults(console: Console, faults: Sequence[Fault], each: bool) -> None:
    """Print the faulty lines: grouped by reason, or one sentence `each`."""
    if not faults:
        return
    sentences = list(map(str, faults)) if each else grouped(faults)
    console.print(f"{len(faults)} faulty line{'s' * (len(faults) > 1)}:")
    for sentence in sentences:
        # Text, because a user's file must not be interpreted as markup; unwrapped, so that it can be searched.
        console.print(Text(f"  {sentence}"), soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Checks a manifest and prints what it found; 0 when it can be used, 1 when not, or
    when the contact sheet that was asked for cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m editing.validate", description="Check a manifest.")
    parser.add_argument("manifest", type=path_argument, help="the JSONL file")
    parser.add_argument("--mask-polarity", choices=POLARITIES, help="for lines that do not state their own")
    parser.add_argument(
        "--root",
        type=path_argument,
        help="folder that the paths start from (default: the header's, or else the manifest's)",
    )
    parser.add_argument(
        "--max-faulty-fraction", type=float, default=0.05, help="largest accepted share of faulty lines (default 0.05)"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow links that lead out of the root")
    parser.add_argument(
        "--sheet", type=path_argument, metavar="HTML", help="write a contact sheet: masks drawn on their images"
    )
    parser.add_argument("--all-faults", action="store_true", help="a sentence for every faulty line")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        dataset = ManifestDataset(
            options.manifest,
            mask_polarity=options.mask_polarity,
            root=options.root,
            max_faulty_fraction=options.max_faulty_fraction,
            follow_links=options.follow_links,
        )
    except ManifestError as error:
        print_faults(console, error.faults, options.all_faults)
        console.print(Text(str(error).splitlines()[0], style="red"), soft_wrap=True)
        return 1
    console.print(summary_table(dataset))
    print_faults(console, dataset.faults, options.all_faults)
    if options.sheet is not None:
        try:
            shown = write_sheet(dataset, options.sheet)
        except OSError as error:
            said = f"--sheet: {options.sheet} cannot be written ({error.strerror or error}); name another file."
            console.print(Text(said, style="red"), soft_wrap=True)
            return 1
        console.print(Text(f"{options.sheet} shows {shown} of {len(dataset)} masks on their images."), soft_wrap=True)
    elif any(set(item.notes) & set(SUSPICIOUS) for item in dataset.items):
        words = [*(sys.argv[1:] if arguments is None else arguments), "--sheet", "sheet.html"]
        console.print(
            Text(
                f"Look at the masks before you train: type {command('editing.validate', *words)}, then open sheet.html."
            ),
            soft_wrap=True,
        )
    return 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
