"""What a status means, and how long Retry-After asks for."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judge.retries import fate, retry_after_seconds

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (429, "busy"),
        (408, "busy"),
        (409, "busy"),
        (425, "busy"),
        (500, "failed"),
        (502, "failed"),
        (503, "failed"),
        (504, "failed"),
        (529, "failed"),
        (401, "wrong"),
        (403, "wrong"),
        (404, "wrong"),
        (405, "wrong"),
        (307, "wrong"),
        (400, "refused"),
        (413, "refused"),
        (415, "refused"),
        (422, "refused"),
    ],
)
def test_fate(status, meaning):
    assert fate(status) == meaning


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 13:00:30 +0100", 30.0),
        ("Sat, 21 Nov 2026 12:00:30 -0000", 30.0),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_read_or_ignored(header):
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
