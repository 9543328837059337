"""Two lanes for everything that requests share, so that a small one does not wait for large ones.

A 16-megapixel request is decoded and measured for many seconds. In one queue, an image of 512 × 512 would wait for all
of them; here it meets only what is small, too. Each stage decides again: a black 16-megapixel PNG is a small body.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from configs.rewards import ServiceConfig
from rewards.service.queue import Budget, Shares

BODIES = 3
"""Bodies of the largest size that may be in memory at the same time; of shorter ones accordingly more."""
BODIES_OF_A_CLIENT = 2
"""How many of them may be one client's, by its address."""
DECODERS = 2
"""Threads that parse and decode what is large."""
SMALL_BODY = 4
"""A body is small up to this part of the largest. All small ones together hold one of the largest size, those of one
client half of it."""
SMALL_PIXELS = 16
"""The images of a request are small up to this part of all pixels. All small ones together hold this part, beside what
the others may hold."""


def small_pixels(limits: ServiceConfig) -> int:
    """Pixels up to which the images of a request are small, all of them together."""
    return int(limits.max_total_megapixels * 1e6) // SMALL_PIXELS


@dataclass(frozen=True)
class Lane:
    """What the requests of a lane share: memory for bodies by client, pixels, and threads that parse and decode."""

    bodies: Shares
    pixels: Budget
    threads: ThreadPoolExecutor


class Lanes:
    """The lane of large requests and the one of small ones."""

    def __init__(self, limits: ServiceConfig) -> None:
        body = limits.max_body_megabytes * 2**20
        self._small_body, self._small_pixels = body // SMALL_BODY, small_pixels(limits)
        self._large = Lane(
            Shares(BODIES * body, BODIES_OF_A_CLIENT * body),
            Budget(int(limits.max_total_megapixels * 1e6)),
            ThreadPoolExecutor(DECODERS, thread_name_prefix="decode"),
        )
        self._small = Lane(
            Shares(body, body // 2),
            Budget(self._small_pixels),
            ThreadPoolExecutor(1, thread_name_prefix="decode small"),
        )

    def of_body(self, length: int) -> Lane:
        """Where a body of so many bytes is read and parsed."""
        return self._small if length <= self._small_body else self._large

    def of_pixels(self, pixels: int) -> Lane:
        """Where images of so many pixels together are decoded."""
        return self._small if pixels <= self._small_pixels else self._large

    def close(self) -> None:
        """Ends the threads."""
        for lane in (self._large, self._small):
            lane.threads.shutdown(wait=False, cancel_futures=True)
