"""Checks of the judges and the score cache from one machine."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from cluster.doctor.finding import Finding
from configs.rewards import RedisConfig, RewardsConfig

TIMEOUT = 15.0  # seconds
KEY = "LOCUS_JUDGE_API_KEY"


def service_findings(rewards: RewardsConfig, redis: RedisConfig) -> list[Finding]:
    """A finding for every configured judge server and for a shared score cache."""
    judge = rewards.judge
    found = [
        judge_finding(name, url, getattr(judge, name).model)
        for name in judge.configured
        for url in getattr(judge, name).urls
    ]
    if redis.mode == "url":
        found.append(redis_finding(redis.url))
    return found


def judge_finding(judge: str, url: str, model: str) -> Finding:
    """Whether an OpenAI-compatible server responds and serves the model under that name."""
    check, url = f"judge {judge}", without_user(url)
    if urlsplit(url).scheme not in ("http", "https"):
        return Finding(check, "fail", f"{url} is not an http address", f"correct rewards.judge.{judge}.urls")
    request = urllib.request.Request(f"{url.rstrip('/')}/models")
    if key := os.environ.get(KEY):
        request.add_header("Authorization", f"Bearer {key}")
    # Without proxies, like the run's client.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            served = [str(entry["id"]) for entry in json.loads(response.read())["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(
                check,
                "fail",
                f"{url} rejects the API key ({error.code})",
                f"set {KEY} where this node's Ray was started" if not key else f"correct {KEY} on this node",
            )
        return Finding(
            check, "fail", f"{url} responds with {error.code}", "see the server's log; the address ends in /v1"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(
            check,
            "fail",
            f"{url} does not respond as a judge: {getattr(error, 'reason', error)}",
            f"start the server, open its port to this node, or correct rewards.judge.{judge}.urls",
        )
    if model not in served:
        return Finding(
            check,
            "fail",
            f"{url} serves {', '.join(served) or 'nothing'}, not {model}",
            f"set rewards.judge.{judge}.model, or start the server with --served-model-name {model}",
        )
    return Finding(check, "ok", f"{url} serves {model}")


def without_user(url: str) -> str:
    """The address without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def redis_finding(url: str) -> Finding:
    """Whether a server listens at the shared cache's address; its password is not tried."""
    parts, url = urlsplit(url), without_user(url)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(parts.path)
        else:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=TIMEOUT).close()
    except OSError as error:
        return Finding(
            "score cache",
            "warn",
            f"{url} does not respond: {error.strerror or error}",
            "start it or open its port; without it every request goes to the judge",
        )
    return Finding("score cache", "ok", f"{url} responds")
