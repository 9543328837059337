"""The interface of an image editor: conditions, a velocity field, a decoder, an attention probe.

Nothing here assumes that an editor is small, that its text encoders are resident, or that a device holds
a whole group: conditions are encoded once and cached, encoders can be released, batches are split where no
gradient is needed.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from editing.masks import TokenMask
from editing.task import EditTask, Image, PixelMask


class EditorError(ValueError):
    """An invalid use of an editor; the message says what was expected, what it got and what to change."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One encoded task: everything that the velocity depends on besides the latents and sigma.

    Attributes:
        prompt_embeds: [1, V, D], in the dtype of the text encoder.
        pooled: [1, P], likewise.
        text_valid: bool [V], True for text tokens, False for padding.
        source_latents: float32 [1, N, C], the packed latents of the source image.
        grid: (h, w) of the token grid, N = h * w, row by row.
        height: of the image, in pixels.
        width: of the image, in pixels.
        key: sha256 (hex) of the source's bytes and the instruction.

    Raises:
        EditorError: the shapes do not agree.
    """

    prompt_embeds: Tensor
    pooled: Tensor
    text_valid: Tensor
    source_latents: Tensor
    grid: tuple[int, int]
    height: int
    width: int
    key: str

    def __post_init__(self) -> None:
        if self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[0] != 1:
            raise EditorError(f"prompt_embeds: expected [1, V, D], got {list(self.prompt_embeds.shape)}.")
        if self.pooled.ndim != 2 or self.pooled.shape[0] != 1:
            raise EditorError(f"pooled: expected [1, P], got {list(self.pooled.shape)}.")
        text = self.prompt_embeds.shape[1]
        if self.text_valid.dtype != torch.bool or self.text_valid.shape != (text,):
            raise EditorError(
                f"text_valid: expected bool [V] = [{text}], one per text token, "
                f"got {self.text_valid.dtype} {list(self.text_valid.shape)}."
            )
        source = self.source_latents
        if source.dtype != torch.float32 or source.ndim != 3 or source.shape[:2] != (1, self.tokens):
            raise EditorError(
                f"source_latents: expected float32 [1, N, C] with N = {self.tokens} for the grid {self.grid}, "
                f"got {source.dtype} {list(source.shape)}."
            )

    @property
    def tokens(self) -> int:
        """N, the number of generated image tokens."""
        return self.grid[0] * self.grid[1]


class Probe(Protocol):
    """Collects the attention concentration (ACD) of the forward passes made while it is active."""

    def take(self) -> Tensor:
        """ACD float32 [B], the mean over the probed blocks and the forward passes since the last take."""
        ...

    def take_blocks(self) -> Tensor:
        """ACD float32 [L, B] of each probed block, in execution order, the mean over the same forward passes."""
        ...

    def take_map(self) -> Tensor:
        """Attention of the text over the image tokens [B, N], rows sum to one; only with `capture_map`."""
        ...


class Editor(ABC):
    """An instruction-based image editor with a flow-matching transformer.

    Latents are packed tokens, float32 [B, N, C] outside; inside, the transformer works in its own dtype.
    `micro_batch` bounds the samples per transformer call (and per decoder call) where no gradient is
    needed; with gradients the caller's batch is used as it is.
    """

    def __init__(self, micro_batch: int | None) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise EditorError(f"micro_batch: expected at least 1, or None for whole batches, got {micro_batch}.")
        self.micro_batch = micro_batch

    @property
    @abstractmethod
    def transformer(self) -> nn.Module:
        """The velocity network; adapters are attached to it by `editing.editors.lora`."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the transformer, and of conditions, sigmas and velocities."""

    @abstractmethod
    def encode(self, task: EditTask) -> Condition:
        """The condition of a task, cached for the next call with the same image and instruction.

        Raises:
            EditorError: an image size that the editor does not support, or an unknown task after
                `release_encoders`.
        """

    @abstractmethod
    def encode_images(self, images: NDArray[np.uint8], condition: Condition) -> Tensor:
        """The clean latents float32 [B, N, C] of images uint8 [B, H, W, 3] of the condition's size, by the same code
        as the source's: what an editor that made the images would end at."""

    @abstractmethod
    def release_encoders(self) -> None:
        """Free the text encoders; `encode` still returns cached conditions."""

    @abstractmethod
    def token_mask(self, edit_mask: PixelMask, condition: Condition, kind: TokenMask = "any") -> Tensor:
        """The edit mask bool [H, W] (True = editable) on the token grid, float32 [N]; see `masks.token_mask`."""

    @abstractmethod
    def sigmas(self, num_steps: int, condition: Condition) -> Tensor:
        """The noise levels of the editor's own sampler, float32 [T+1], falling from sigmas[0] to 0."""

    @abstractmethod
    def decode(self, latents: Tensor, condition: Condition) -> Image:
        """The images of clean latents [B, N, C], uint8 array [B, H, W, 3].

        Raises:
            NotFinite: the latents or the decoded pixels are not finite (some decoders overflow in half precision).
        """

    @property
    @abstractmethod
    def attention_blocks(self) -> int:
        """Number of blocks that an attention probe can watch."""

    @abstractmethod
    def attention_probe(
        self, edit_mask: Tensor, last_blocks: int, *, capture_map: bool = False
    ) -> AbstractContextManager[Probe]:
        """A context in which `velocity` also measures ACD in the last blocks, at unchanged velocities.

        Args:
            edit_mask: [N], or [B, N] for one mask per sample; 1 = editable.
            last_blocks: number of blocks, counted from the end in execution order over all block types.
            capture_map: also keep the attention over the image, for galleries.

        Raises:
            EditorError: there are fewer blocks.
        """

    @abstractmethod
    def _velocity(self, latents: Tensor, sigma: Tensor, condition: Condition, rows: slice) -> Tensor:
        """One transformer call for the samples `rows` of the caller's batch; arguments are already sliced."""

    def _begin_velocity(self, batch: int, condition: Condition) -> None:  # noqa: B027 (most editors need nothing)
        """Called once before the transformer calls of a batch."""

    def velocity(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The velocity float32 [B, N, C] at latents float32 [B, N, C], sigma float32 [B] in [0, 1].

        The condition is expanded over the batch. Differentiable in the latents and the transformer's
        parameters.

        Raises:
            EditorError: latents or sigma do not fit the condition.
        """
        batch = latents.shape[0]
        if latents.shape[1:] != condition.source_latents.shape[1:] or sigma.shape != (batch,):
            raise EditorError(
                "velocity: expected latents [B, N, C] and sigma [B] with [N, C] = "
                f"{list(condition.source_latents.shape[1:])}, got {list(latents.shape)} and "
                f"{list(sigma.shape)}."
            )
        self._begin_velocity(batch, condition)
        size = self.micro_batch
        if size is None or batch <= size or torch.is_grad_enabled():
            return self._velocity(latents, sigma, condition, slice(0, batch))
        cuts = [slice(start, min(start + size, batch)) for start in range(0, batch, size)]
        return torch.cat([self._velocity(latents[cut], sigma[cut], condition, cut) for cut in cuts])
