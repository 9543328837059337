"""Tables of trained editors and of what is measured without training, each a command.

    python -m evaluation.ablation --rows global rdp quickstart     any rows over seeds
    python -m evaluation.ablation table2                           RC-GRPO-Editing's ablation
    python -m evaluation.ablation table3                           its bandwidths
    python -m evaluation.ablation methods                          all methods, at equal rollouts and equal CPU seconds
    python -m evaluation.ablation sweep                            where RDP beats global perturbation
    python -m evaluation.ablation noise                            groups under global perturbation and RDP, untrained
    python -m evaluation.ablation layers                           attention concentration block by block, untrained

`python -m evaluation.ablation TABLE --help` has the flags of each. All write Markdown, JSON and plots to --out, and all
that train keep finished runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from configs.errors import nearest
from configs.output import protect_output
from configs.text import shown
from evaluation.ablation import layers, methods, noise, papers_tables, rows, sweep

Table = Callable[[Sequence[str]], int]

TABLES: Mapping[str, Table] = {
    "table2": papers_tables.table2,
    "table3": papers_tables.table3,
    "methods": methods.main,
    "noise": noise.main,
    "layers": layers.main,
    "sweep": sweep.main,
}


def command(words: Sequence[str]) -> tuple[Table, Sequence[str]]:
    """The table that the first word names, and the words for it; flags alone are those of any rows.

    Raises:
        ValueError: for a word that names none.
    """
    if not words or words[0].startswith("-"):
        return rows.main, words
    name = words[0]
    if name not in TABLES:
        near = nearest(name, TABLES)
        hint = f"did you mean {near}?" if near else "for others, name rows, such as --rows rdp quickstart"
        raise ValueError(f"{shown(name)}: expected one of {', '.join(TABLES)}; {hint}")
    return TABLES[name], words[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table that the first word names."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in ("--help", "-h"):
        print(__doc__, end="\n\n")
    try:
        run, rest = command(words)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return run(rest)


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
