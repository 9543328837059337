"""The cache that a configuration names: none, a shared server, or one of the run's own."""

from __future__ import annotations

from pathlib import Path

from configs.rewards import RedisConfig
from rewards.cache.base import CacheError, NoCache, ScoreCache


def open_cache(config: RedisConfig, folder: Path | None) -> ScoreCache:
    """The cache that `redis` configures. With mode embedded its server runs when this returns.

    A shared server that does not respond is not an error: `ScoreCache.ready` waits for it for a while, then logs a
    warning, and scoring goes on.

    Args:
        folder: where an embedded server keeps its scores between runs (the run's folder), or None: nowhere.

    Raises:
        CacheError: when a package is missing, or the embedded server does not start.
    """
    if config.mode == "off":
        return NoCache()
    try:
        from rewards.cache.redis_cache import open_redis
    except ImportError as error:
        raise CacheError(
            f"redis.mode {config.mode} needs the package redis, which is not installed; type: "
            "python -m pip install -e '.[judges]'   in the folder of Locus (or run with --redis.mode off)"
        ) from error
    return open_redis(config, folder)
