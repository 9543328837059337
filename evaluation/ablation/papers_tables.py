"""The tables of RC-GRPO-Editing (arXiv 2604.09386) on the embedded benchmark.

    python -m evaluation.ablation table2 --jobs 2 --cluster.mode inline --learner.steps 40
    python -m evaluation.ablation table3 --jobs 2 --cluster.mode inline --learner.steps 40

`table2`: global perturbation, perturbation inside the mask (RDP), and attention concentration as a reward (ACD).
`table3`: the bandwidths of the metric, on the last row of `table2`, which is the paper's full method. Where a step from
row to row goes another way than in the paper, the report says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from evaluation.ablation.paper import BANDWIDTHS, TABLE2, TABLE3, PaperTable, disagreements, pairs
from evaluation.ablation.trained import parser, train, typed, write_report
from evaluation.row_files import tuned_rows
from evaluation.runs import Ended, RowSpec, Runner, run_process, runs_ended_in_words

FULL_METHOD = "rdp_acd"


def table2_rows(tuned: Path) -> tuple[list[RowSpec], list[str]]:
    """The rows of Table 2 but the base, which every row is measured against; notes as `tuned_rows`."""
    return tuned_rows([name for name in TABLE2.rows if name != "base"], tuned)


def table3_rows(tuned: Path) -> tuple[list[RowSpec], list[str]]:
    """The rows of the bandwidth ablation; notes as `tuned_rows`."""
    (full,), notes = tuned_rows([FULL_METHOD], tuned)
    return [
        RowSpec(label, full.config, ("--algorithm.tau_edit", f"{edit:g}", "--algorithm.tau_base", f"{base:g}"))
        for label, (edit, base) in BANDWIDTHS.items()
    ], notes


def _main(
    name: str,
    table: PaperTable,
    rows: Callable[[Path], tuple[list[RowSpec], list[str]]],
    arguments: Sequence[str],
    runner: Runner,
) -> int:
    options, overrides = parser(name, f"{table.source}, on the embedded benchmark.", f"runs/{name}").parse_known_args(
        arguments
    )
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            specs, notes = rows(options.tuned)
            trained = train(specs, options, overrides, runner, console)
            differing = disagreements(table, trained.differences(pairs(table)))
    except Ended as ended:
        return ended.status
    write_report(
        console,
        options.out,
        table.source,
        trained,
        typed(name, arguments),
        pairs(table),
        {"Where this differs from the paper": differing, "Rows": notes},
        paper={"source": table.source, "rows": table.rows},
    )
    return 0


def table2(arguments: Sequence[str], runner: Runner = run_process) -> int:
    """Run Table 2 and write its report; 0 if all runs finished, with whatever outcome."""
    return _main("table2", TABLE2, table2_rows, arguments, runner)


def table3(arguments: Sequence[str], runner: Runner = run_process) -> int:
    """Run the bandwidth ablation and write its report; 0 if all runs finished, with whatever outcome."""
    return _main("table3", TABLE3, table3_rows, arguments, runner)
