"""The command that trains: `python -m learner.main`.

Reads the command line, starts the run, and reports errors with what to do next. Exit codes (`configs.exits`): 0 done, 1
the run failed, 2 the request is wrong, 3 done, but what was trained is of no use, 75 retryable: the infrastructure
failed, and another attempt with --resume may succeed, 130 or 143 asked to stop (Ctrl-C; SIGTERM, SIGHUP or SIGUSR1).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from configs import exits
from configs.commands import resume
from configs.edit_signal import check_edit_signal
from configs.errors import ConfigError
from configs.help import print_help
from configs.load import CommandLine, config_hash, parse_command_line, to_yaml
from configs.output import protect_output
from configs.schema import RunConfig
from learner.shutdown import Stopping, Terminated
from learner.state.run_name import free_name
from rewards.embedding.folder import EmbeddingError, check_embeddings

OURS = ("configs", "editing", "actors", "rewards", "learner", "cluster")
"""Packages whose errors are sentences; anything else is a fault of the program and keeps its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line asks and returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments):
        print_help()
        return 0
    try:
        request = parse_command_line(arguments)
        check_embeddings(request.config.rewards)
        check_edit_signal(request.config)
    except (ConfigError, EmbeddingError) as error:
        print(f"{error}\n\nType python -m learner.main --help for examples and every key.", file=sys.stderr)
        return exits.WRONG_REQUEST
    if request.dry_run:
        from learner.planning.report import as_comments, report, this_machine

        print(f"# sha256 {config_hash(request.config)} (without name and folder)\n{to_yaml(request.config)}")
        print(as_comments(report(request.config, this_machine())), end="")
        return 0
    stopping = Stopping()
    stopping.install()
    exact = request.resume or request.named
    try:
        with nullcontext(request.config) if exact else free_name(request.config) as config:
            return guarded(config, lambda: train_and_report(config, request, stopping))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST


def train_and_report(config: RunConfig, request: CommandLine, stopping: Stopping) -> int:
    """Runs the training, under the name that `config` has, with everything that reports on it, and returns its exit
    code."""
    # Imported late: --help and --dry-run respond at once.
    from learner.quiet import quiet_libraries
    from learner.reporting.console import ConsoleReport
    from learner.reporting.gallery import GalleryReport
    from learner.reporting.guard import Harmless
    from learner.reporting.metrics import MetricsLog, check_tracker
    from learner.run import run
    from learner.state.run_dir import continued_by_copy

    if request.copied is not None:
        print(continued_by_copy(request.copied, config))
    if config.cluster.mode == "inline":
        quiet_libraries()
    check_tracker(config.report.tracker)
    console, metrics = ConsoleReport(), MetricsLog()
    try:
        # The gallery comes first: the console names it at the end only if it is there.
        summary = run(config, request.resume, [GalleryReport(), metrics, console], request.allowed, stopping)
    finally:
        for report in (console, metrics):
            Harmless(report).close()
    return exits.DONE if summary["verdict"]["outcome"] == "trained" else exits.UNUSABLE


def guarded(config: RunConfig, work: Callable[[], int]) -> int:
    """Does the work and returns its exit code; interruptions and our own errors end in sentences.

    What Ray raised because something was lost keeps its traceback, for the operator, and has its exit code, for a
    supervisor.
    """
    try:
        return work()
    except KeyboardInterrupt as interruption:
        print(f"\nStopped. {how_to_resume(config) or 'There was no checkpoint yet.'}", file=sys.stderr)
        return exits.TERMINATED if isinstance(interruption, Terminated) else exits.INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        print(
            "cluster.mode ray needs Ray, which is not installed; type: python -m pip install 'ray[default]'   "
            "(or run with --cluster.mode inline)",
            file=sys.stderr,
        )
        return exits.FAILED
    except Exception as error:
        # Imported late: --help and --dry-run respond at once.
        from learner.errors import RunRefused
        from learner.retryable import is_retryable
        from learner.state.rollback import Diverged

        retryable = is_retryable(error)
        if is_sentence(error):
            print(f"\n{error}", file=sys.stderr)
        elif retryable:
            traceback.print_exc()
        else:
            raise
        if isinstance(error, Diverged):
            return exits.UNUSABLE  # resumed, it would come to the same
        if not isinstance(error, RunRefused) and (words := how_to_resume(config)):
            print(words, file=sys.stderr)
        return exits.RESUMABLE if retryable else exits.FAILED


def is_sentence(error: Exception) -> bool:
    """Whether an error is one of ours, whose message says what to do."""
    return isinstance(error, ValueError | RuntimeError) and type(error).__module__.partition(".")[0] in OURS


def how_to_resume(config: RunConfig) -> str:
    """What to type to go on with the run, or an empty text when nothing of it has been saved."""
    folder = Path(config.folder) / config.name
    if not any(folder.glob("checkpoints/step_*")):
        return ""
    return f"Continue from the last checkpoint with: {resume(folder)}"


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
