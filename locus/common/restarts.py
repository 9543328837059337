"""When something that was lost is started again, and when it is given up. Pure.

Its users differ in what they restart, and so in what ends a row of losses and in whether they ever give up:

    worker slots of a fleet (actors.slots)          a finished job ends the row: a worker may live long and do nothing.
                                                    Given up after `cluster.max_restarts`: the others go on without it
    judge servers (rewards.vllm.replicas)           having been up for ten minutes ends the row. Never given up: without
                                                    judges there is no reward, and the run waits for them anyway
    the supervisor's attempts (cluster.supervise)   having lasted half an hour ends the row. Given up after six: then
                                                    an operator has to look
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from locus.common.backoff import backoff


@dataclass(frozen=True)
class RestartPolicy:
    """After the n-th loss in a row: whether another start follows, and in how many seconds.

    Attributes:
        restarts: losses in a row that are followed by another start; None for all of them.
        first_delay: seconds from the first loss to the next start, doubled with every further loss in a row.
        longest_delay: seconds that a delay never exceeds.
        settled: seconds after which what is lost had found its feet, so that the loss is the first of a new row.
    """

    restarts: int | None
    first_delay: float = 1.0
    longest_delay: float = 60.0
    settled: float = inf

    def row(self, losses: int, lasted: float) -> int:
        """Losses in a row, with one more after `losses`, of something that had lasted so many seconds."""
        return 1 if lasted >= self.settled else losses + 1

    def gives_up(self, losses: int) -> bool:
        """Whether nothing is started any more after so many losses in a row."""
        return self.restarts is not None and losses > self.restarts

    def delay(self, losses: int) -> float:
        """Seconds until the next start after so many losses (1 or more) in a row."""
        return backoff(losses, self.first_delay, self.longest_delay)
