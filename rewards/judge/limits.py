"""The failure limits of judges in a run. No I/O."""

from __future__ import annotations

from collections import deque

from rewards.judge.messages import JudgesDown

WINDOW = 200
"""Responses over which the share of bad ones is taken."""


class FailureLimits:
    """Counts the outcomes of a judge's requests.

    Two limits, for two kinds of trouble: requests in a row without any response (the machinery), and responses that are
    no scores (the model). The second is a share of a whole window, so the first few responses alone cannot exceed it.
    """

    def __init__(self, judge: str, max_unanswered: int, max_bad_answers: float) -> None:
        """
        Args:
            judge: its name, for the sentences.
            max_unanswered: 1 or more.
            max_bad_answers: share of the last 200, above 0 to 1.
        """
        self.judge = judge
        self._max_unanswered, self._max_bad = max_unanswered, max_bad_answers
        self._unanswered = 0
        self._responses: deque[bool] = deque(maxlen=WINDOW)

    def answered(self) -> None:
        """A request was answered: the servers are there."""
        self._unanswered = 0

    def unanswered(self, why: str) -> None:
        """A request was given up.

        Raises:
            JudgesDown: when it was the `max_unanswered`th in a row.
        """
        self._unanswered += 1
        if self._unanswered >= self._max_unanswered:
            raise JudgesDown(
                f"{self.judge}: {self._unanswered} requests in a row got no response "
                f"(rewards.judge.max_unanswered is {self._max_unanswered}). The last one: {why}"
            )

    def noted(self, usable: bool, why: str = "") -> None:
        """A response was a score, or none.

        Raises:
            JudgesDown: when more than `max_bad_answers` of a window were none.
        """
        self._responses.append(usable)
        bad = self._responses.count(False)
        if not usable and bad > self._max_bad * WINDOW:
            raise JudgesDown(
                f"{self.judge}: {bad} of the last {len(self._responses)} responses had no score, more than "
                f"{self._max_bad:.0%} of {WINDOW} (rewards.judge.max_bad_answers). Is this the right model? "
                f"The last one: {why or 'see the errors of the scores'}"
            )
