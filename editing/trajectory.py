"""Typed, shape-checked messages between driver, rollout workers, reward pool and learner.

Arrays are numpy (shared memory without copies between processes); formulas convert them to tensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from editing.task import NOT_FINITE


class MessageError(ValueError):
    """An inconsistent message; the error names the part."""


@dataclass(frozen=True)
class Lease:
    """Permission to roll out one task once. Everything random in the group follows from `seed`.

    `step` is the optimizer step the group is meant for, `slot` its place among that step's groups.
    A worker refuses a lease whose `policy_version` is not the one it holds.
    """

    step: int
    slot: int
    task_index: int
    attempt: int
    seed: int
    policy_version: int

    @property
    def group_id(self) -> str:
        return f"{self.step:06d}.{self.slot:03d}.{self.attempt}"


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and nothing else (not on process, platform or order of use)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def not_finite(lease: Lease, what: str) -> MessageError:
    """Of a group in which `what` is; an editor that makes such before any training wants another dtype."""
    hint = "" if lease.policy_version else ", the editor before any training; does editor.dtype float32 help?"
    return MessageError(f"group {lease.group_id}: its {what}, under policy version {lease.policy_version}{hint}")


@dataclass(frozen=True)
class TrajectoryGroup:
    """G candidates of one task under one policy version, whole or not at all.

    For the j-th kept step t_j (from sigma[t_j] to sigma[t_j + 1]):
    `candidates[j]` are the states x at sigma[t_j + 1] of all candidates, `predecessors[j]` the states at
    sigma[t_j] of the anchors only. Which steps and anchors those are, the method says (`editing.rollout_spec`).
    Latents are float32, images uint8. `acd` is None if no reward uses it.

    Where the candidates are given images (`editing.given`), nothing was rolled out: `noise` is None, there are no
    anchors, and the one kept step has the images' latents.
    """

    lease: Lease
    task_id: str
    policy_version: int
    config_hash: str
    noise: str | None  # digest of the initial noise, see editing.noise.noise_digest; None of given images
    sigmas: np.ndarray  # [T+1] float32
    kept_steps: tuple[int, ...]
    anchors: np.ndarray  # [B] int64, rising; none of given images
    candidates: np.ndarray  # [K, G, N, C] float32
    predecessors: np.ndarray  # [K, B, N, C] float32
    images: np.ndarray  # [G, H, W, 3] uint8
    acd: np.ndarray | None  # [G] float32
    seconds: float  # wall time of the rollout

    def __post_init__(self) -> None:
        steps, anchors = len(self.kept_steps), len(self.anchors)
        if self.candidates.ndim != 4 or self.candidates.shape[0] != steps:
            raise MessageError(
                f"group {self.lease.group_id}: candidates: expected [{steps}, G, N, C], got {self.candidates.shape}"
            )
        _, size, tokens, channels = self.candidates.shape
        if self.predecessors.shape != (steps, anchors, tokens, channels):
            raise MessageError(
                f"group {self.lease.group_id}: predecessors: expected "
                f"{(steps, anchors, tokens, channels)}, got {self.predecessors.shape}"
            )
        if self.images.ndim != 4 or self.images.shape[0] != size or self.images.dtype != np.uint8:
            raise MessageError(
                f"group {self.lease.group_id}: images: expected uint8 [{size}, H, W, 3], "
                f"got {self.images.dtype} {self.images.shape}"
            )
        if self.acd is not None and self.acd.shape != (size,):
            raise MessageError(f"group {self.lease.group_id}: acd: expected [{size}], got {self.acd.shape}")
        if (
            (anchors == 0) != (self.noise is None)
            or len(set(self.anchors.tolist())) != anchors
            or not all(0 <= anchor < size for anchor in self.anchors.tolist())
        ):
            raise MessageError(
                f"group {self.lease.group_id}: anchors: expected distinct candidates in 0..{size - 1}, "
                f"got {self.anchors.tolist()}"
            )
        if not (np.isfinite(self.candidates).all() and np.isfinite(self.predecessors).all()):
            raise not_finite(self.lease, f"latents {NOT_FINITE}")

    @property
    def is_given(self) -> bool:
        """Whether the candidates are given images."""
        return self.noise is None

    @property
    def group_size(self) -> int:
        return int(self.candidates.shape[1])

    @property
    def latent_bytes(self) -> int:
        """Bytes of the states that the method learns from, as they are sent."""
        return self.candidates.nbytes + self.predecessors.nbytes

    @property
    def image_bytes(self) -> int:
        """Bytes of the images that rewards look at, as they are sent."""
        return self.images.nbytes


@dataclass(frozen=True)
class Generated:
    """The small part of a finished rollout: sent to the driver, while the group itself stays in place."""

    lease: Lease
    task_id: str
    policy_version: int
    config_hash: str
    seconds: float  # wall time of the rollout
    pid: int  # process that made it


@dataclass(frozen=True)
class Shown:
    """One held-out task as an editor edits it, for images in a report.

    `attention` is the text's attention over the token grid [h, w] (it sums to one), averaged over the
    sampler's steps and the probed blocks.
    """

    index: int
    task_id: str
    image: np.ndarray  # [H, W, 3] uint8
    attention: np.ndarray  # [h, w] float32
