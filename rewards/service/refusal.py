"""A refused request: a status, and one sentence that says why and what to change."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """`status` is the HTTP status, `sentence` the whole response; `retry_after` seconds where trying again helps."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes with the status."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
