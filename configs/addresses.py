"""Addresses of the servers that a run talks to: of the right form, and without secrets in them."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qs, urlsplit


def judge_address(url: str) -> str:
    """The address of a judge server, without a slash at the end.

    Raises:
        ValueError: when it is no http(s) address, or has a user, a password, a query or a fragment in it; what may be
            a secret is not repeated.
    """
    parts, whole = _parts(url)
    # Before anything that repeats the address: `http://me:secret@host:port` is wrong in two ways.
    if "@" in (parts.netloc or url) or parts.query or parts.fragment:
        raise ValueError(
            "expected no user, password or query in the address of a judge; its key comes from LOCUS_JUDGE_API_KEY"
        )
    if not whole or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected the address of a judge like http://127.0.0.1:8000/v1, got {url!r}")
    return url.rstrip("/")


def check_redis_address(url: str) -> None:
    """Raises ValueError for what is no address of a Redis server, or has a password or options in it."""
    parts, whole = _parts(url)
    options = set(parse_qs(parts.query))
    if parts.password or "password" in options:
        raise ValueError("expected no password in the configuration; set LOCUS_REDIS_PASSWORD instead")
    if options - {"db"}:
        raise ValueError(f"expected no options but db after the ?, got {sorted(options)}")
    if not whole or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"expected redis://host:port/db, rediss:// or unix://, got {url.rpartition('@')[2]!r}")


def _parts(url: str) -> tuple[SplitResult, bool]:
    """The parts of an address, and whether it is one: without spaces, and what follows the last colon is a port."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address
        return SplitResult("", "", "", "", ""), False
    try:
        return parts, parts.port != 0 and not any(letter.isspace() for letter in url)
    except ValueError:
        return parts, False
