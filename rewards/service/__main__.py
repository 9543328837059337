"""`python -m rewards.service`: the reward pool as an HTTP service.

Exit codes: 0 stopped by SIGTERM or Ctrl-C, 1 the judges or the cache did not respond, 2 the request is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

from configs.errors import ConfigError
from configs.judges import JUDGES
from configs.load import parse_command_line, to_yaml
from configs.output import protect_output
from configs.schema import RunConfig
from configs.tree import sections
from rewards.service.access import TOKEN_VARIABLE, Access, AccessError, bind, decide

USAGE = f"""\
python -m rewards.service [--config NAME_OR_PATH] [--section.key VALUE ...] [--dry-run]

Scores edited images over HTTP: POST /v1/score; the page of the API is at /docs. Without --config the preset
`service` measures the background; a judge is added with
  --rewards.judge.editscore.urls '[http://127.0.0.1:8000/v1]' --rewards.weights.editscore 1
A secret in {TOKEN_VARIABLE} (32 characters or more) is asked of every client; beyond loopback there must be one.
All keys are those of python -m learner.main --help; these concern the service alone:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until the process is asked to end, and returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return 0
    try:
        config, dry_run = _configuration(arguments)
        if dry_run:
            print(to_yaml(config), end="")
            return 0
        access = decide(config.service, os.environ)
        signal.signal(signal.SIGTERM, _terminate)
        return _serve(config, access)
    except (ConfigError, AccessError) as error:
        print(f"{error}\n\nType python -m rewards.service --help for examples.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("The reward service has stopped.", flush=True)
        return 0


def _configuration(arguments: list[str]) -> tuple[RunConfig, bool]:
    if not any(word.partition("=")[0] == "--config" for word in arguments):
        arguments = ["--config", "service", *arguments]
    request = parse_command_line(arguments)
    if request.resume:
        raise ConfigError("--resume: the service has no state to resume; leave it out")
    config = request.config
    from rewards.offline.command import WITHOUT_PICTURES  # late: it loads torch, which wrong flags need not wait for

    for name, why in WITHOUT_PICTURES.items():
        if config.rewards.weights.get(name, 0) != 0:
            raise ConfigError(
                f"rewards.weights: {name} {why}, so images alone cannot be scored by it; set --rewards.weights.{name} 0"
            )
    for name in JUDGES:
        judge = getattr(config.rewards.judge, name)
        if judge.serve.replicas and not judge.urls:
            raise ConfigError(
                f"rewards.judge.{name}.serve: only a training run starts judges; start a server and say "
                f"where: --rewards.judge.{name}.urls '[http://127.0.0.1:8000/v1]'"
            )
    return config, request.dry_run


def _serve(config: RunConfig, access: Access) -> int:
    # Imported late: --help and wrong flags are answered at once.
    from PIL.Image import DecompressionBombWarning

    from rewards.cache.base import CacheError
    from rewards.embedding.folder import EmbeddingError
    from rewards.judge.messages import JudgeError
    from rewards.offline.command import NO_TASKS, waiting_for
    from rewards.open import open_pool
    from rewards.plugin.process import ScorerError
    from rewards.pool import PoolError, weighted
    from rewards.service.app import create_app
    from rewards.service.lanes import small_pixels
    from rewards.service.pool_thread import PoolThread
    from rewards.service.server import make_server

    # What it warns of is refused here by a limit of our own.
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
    bound = bind(access, config.service.port)
    host, port = bound.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if waited := waiting_for(config):
        print(waited, flush=True)
    try:
        with bound, PoolThread(lambda: open_pool(config, NO_TASKS, small_pixels=small_pixels(config.service))) as pool:
            who = "with the token" if access.token else "for everyone on this machine"
            app = create_app(config.rewards, config.service, pool, access)
            said = f"Reward service on {url} {who}: {', '.join(weighted(config.rewards))}."
            make_server(app, said).run(sockets=[bound])
    except (ScorerError, EmbeddingError) as error:
        raise ConfigError(str(error)) from error
    except (JudgeError, PoolError, CacheError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _help() -> str:
    (section,) = (section for section in sections() if section.path == "service")
    return USAGE + "\n".join(f"  --{key.path}  [{key.default}]\n      {key.doc}" for key in section.keys)


def _terminate(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
