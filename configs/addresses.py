"""Validation of the server addresses that a run uses: well-formed, and free of secrets."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qs, urlsplit


def judge_address(url: str) -> str:
    """The address of a judge server, without a trailing slash.

    Raises:
        ValueError: not an http(s) address, or one with a user, password, query or fragment; possible secrets are not
            repeated.
    """
    parts, whole = _parts(url)
    # Before any message that repeats the address: `http://me:secret@host:port` is wrong in two ways.
    if "@" in (parts.netloc or url) or parts.query or parts.fragment:
        raise ValueError(
            "expected no user, password or query in a judge's address; its key comes from LOCUS_JUDGE_API_KEY"
        )
    if not whole or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected the address of a judge, such as http://127.0.0.1:8000/v1, got {url!r}")
    return url.rstrip("/")


def check_redis_address(url: str) -> None:
    """Raise ValueError unless this is the address of a Redis server, without a password or options."""
    parts, whole = _parts(url)
    options = set(parse_qs(parts.query))
    if parts.password or "password" in options:
        raise ValueError("expected no password in the configuration; set LOCUS_REDIS_PASSWORD instead")
    if options - {"db"}:
        raise ValueError(f"expected no option other than db after the ?, got {sorted(options)}")
    if not whole or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"expected redis://host:port/db, rediss:// or unix://, got {url.rpartition('@')[2]!r}")


def _parts(url: str) -> tuple[SplitResult, bool]:
    """The parts of an address, and whether it is well-formed: no white space, and a valid port."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets around something other than an IPv6 address
        return SplitResult("", "", "", "", ""), False
    try:
        return parts, parts.port != 0 and not any(letter.isspace() for letter in url)
    except ValueError:
        return parts, False
