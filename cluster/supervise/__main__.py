"""`python -m cluster.supervise -- FLAGS`: retries `python -m learner.main FLAGS` as a Ray job until it finishes.

    python -m cluster.supervise --address http://127.0.0.1:8265 -- --config my_images --folder /shared/runs --name cats

Every attempt is a job <name>-<number>. It resumes the run's newest checkpoint, or starts the run if there is none
(`cluster.resume_or_start`). If a job or its cluster is lost, or the run's exit code is retryable, the next attempt
follows with exponential backoff. Ctrl-C ends only the supervisor; typed again, the same command finds the running job
and waits for it.
Exit codes: 0 done, 2 invalid arguments, 75 no cluster or too many failures in a row, otherwise the run's own.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cluster.auth import use_token
from cluster.supervise.jobs import JobRefused, RayJobs
from cluster.supervise.policy import POLICY
from cluster.supervise.supervisor import Supervisor
from configs import exits
from configs.edit_signal import check_edit_signal
from configs.errors import ConfigError
from configs.load import CommandLine, parse_command_line
from configs.output import protect_output

ENTRYPOINT = ("python", "-m", "cluster.resume_or_start", "--")


def parser() -> argparse.ArgumentParser:
    """The parser of the supervisor's own flags; those of the run follow `--`."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.supervise",
        usage="python -m cluster.supervise [--address URL] [...] -- FLAGS OF THE RUN",
        description="Retry a run until it finishes, although jobs and clusters are lost.",
    )
    made.add_argument(
        "--address",
        help="the cluster's dashboard; default $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, or http://127.0.0.1:8265",
    )
    made.add_argument(
        "--working-dir",
        help="a folder to upload to the cluster, except what .gitignore excludes, and to "
        "start in; default: where Ray was started there",
    )
    made.add_argument(
        "--failures",
        type=int,
        default=POLICY.restarts,
        help="maximum number of consecutive failures to retry; default %(default)s",
    )
    made.add_argument(
        "--first-delay",
        type=float,
        default=POLICY.first_delay,
        help="backoff in seconds before the second attempt, doubled each time up to 600; default %(default)s",
    )
    made.add_argument(
        "--patience",
        type=float,
        default=3600.0,
        help="seconds that the cluster may be unreachable; default %(default)s",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Supervise the run and return the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "--" not in arguments and not {"-h", "--help"} & set(arguments):
        print(
            "Expected -- and then the flags of the run: python -m cluster.supervise -- --config quickstart",
            file=sys.stderr,
        )
        return exits.WRONG_REQUEST
    here = arguments.index("--") if "--" in arguments else len(arguments)
    options, flags = parser().parse_args(arguments[:here]), arguments[here + 1 :]
    try:
        request = checked(flags)
        use_token()
        jobs = RayJobs(options.address, options.working_dir)
        policy = replace(POLICY, restarts=options.failures, first_delay=options.first_delay)
        return Supervisor(
            jobs, request.config.name, shlex.join((*ENTRYPOINT, *flags)), policy, options.patience, say
        ).until_it_ends()
    except (ConfigError, JobRefused) as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST
    except KeyboardInterrupt:
        print("\nThe job continues without its supervisor; the same command supervises it again.", file=sys.stderr)
        return exits.INTERRUPTED


def checked(flags: Sequence[str]) -> CommandLine:
    """The validated command line of the run.

    Raises:
        ConfigError: invalid flags, nothing that rewards or preserves the edit, or a folder in which a second attempt
            could not find what the first one saved.
    """
    request = parse_command_line(flags)
    check_edit_signal(request.config)
    if request.dry_run or request.resume:
        raise ConfigError(
            "--dry-run and --resume: expected neither; every attempt checks by itself whether "
            "there is a checkpoint to resume"
        )
    if not Path(request.config.folder).is_absolute():
        raise ConfigError(
            "folder: expected an absolute path on storage that outlives the cluster and is visible to all "
            f"its nodes, got {request.config.folder!r}; add --folder /shared/runs, for example"
        )
    return request


def say(sentence: str) -> None:
    """Print one line with the time of day."""
    print(f"{datetime.now():%H:%M:%S} {sentence}", flush=True)


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
