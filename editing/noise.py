"""Initial noise of a group: one reference, and candidates that differ from it mainly inside the edit mask.

Region-decoupled perturbation (RDP), RC-GRPO-Editing, arXiv 2604.09386, Eq. 10-11:

    alpha   = alpha_edit * M + alpha_base * (1 - M)
    eps_i   = sqrt(1 - alpha^2) * eps_ref + alpha * delta_i,      delta_i iid N(0, I)

Every candidate is marginally N(0, I), whatever the mask. With alpha_edit == alpha_base the mask plays no
part: that is the global perturbation of Neighbor GRPO (arXiv 2511.16955, Eq. 7).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editing.token_mask import at_least_float32, checked_token_mask

REFERENCE_INDEX = 0
"""Index of the unperturbed reference in every group; it is a candidate but never an anchor."""


def perturb(reference: Tensor, delta: Tensor, edit_mask: Tensor, alpha_edit: float, alpha_base: float) -> Tensor:
    """sqrt(1 - alpha^2) * reference + alpha * delta, alpha by region (arXiv 2604.09386 Eq. 10-11).

    Args:
        reference: [N, C], N(0, I).
        delta: [..., N, C], N(0, I), independent of the reference.
        edit_mask: [N] in [0, 1], 1 = editable; alpha is interpolated where it is soft.
        alpha_edit: perturbation strength in the edit region, 0..1.
        alpha_base: perturbation strength elsewhere, 0..1.

    Returns:
        [..., N, C].

    Raises:
        ValueError: for shapes or strengths outside these ranges.
    """
    _check_strength("alpha_edit", alpha_edit)
    _check_strength("alpha_base", alpha_base)
    if not (reference.is_floating_point() and delta.is_floating_point()):
        raise ValueError(f"noise: expected floating point, got {reference.dtype} and {delta.dtype}.")
    if reference.ndim != 2 or delta.shape[-2:] != reference.shape:
        raise ValueError(
            f"expected reference [N, C] and delta [..., N, C], got {list(reference.shape)} and {list(delta.shape)}."
        )
    mask = checked_token_mask(edit_mask, reference.shape[0], like=reference)[:, None]
    # In this form equal strengths ignore the mask exactly.
    alpha = alpha_base + (alpha_edit - alpha_base) * mask
    return (1 - alpha.square()).sqrt() * reference + alpha * delta


def region_decoupled_noise(
    reference: Tensor,
    edit_mask: Tensor,
    group_size: int,
    alpha_edit: float,
    alpha_base: float,
    generator: torch.Generator,
) -> Tensor:
    """Initial noise of a group [G, N, C]; index 0 equals `reference` exactly (arXiv 2604.09386 Eq. 10-11).

    All deltas come from one generator, so the result belongs to this group size; `NoiseRecipe` draws
    candidates that do not.

    Args:
        reference: [N, C], N(0, I), at least float32.
        edit_mask: [N] in [0, 1], 1 = editable.
        group_size: G >= 1, the reference included.
        alpha_edit: perturbation strength in the edit region, 0..1.
        alpha_base: perturbation strength elsewhere, 0..1; equal to alpha_edit for global perturbation.
        generator: a CPU generator; deltas are drawn in float32 there and moved, so that a seed means the same
            noise on every device.

    Raises:
        ValueError: for shapes or values outside these ranges.
    """
    _check_group_size(group_size)
    if generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, got one on {generator.device}.")
    reference = at_least_float32(reference)
    delta = torch.randn((group_size - 1, *reference.shape), generator=generator, dtype=torch.float32)
    perturbed = perturb(reference, delta.to(reference), edit_mask, alpha_edit, alpha_base)
    return torch.cat([reference[None], perturbed])


@dataclass(frozen=True)
class NoiseRecipe:
    """The noise of one group as a recipe of four numbers instead of a tensor.

    Invariant: candidate i depends on (seed, i), the mask and the strengths, never on the group size or the
    machine.

    Attributes:
        seed: 64-bit seed of the group, 0 <= seed < 2**64.
        alpha_edit: perturbation strength in the edit region, 0..1.
        alpha_base: perturbation strength elsewhere, 0..1; equal to alpha_edit for global perturbation.
        group_size: G >= 1, the reference included.
    """

    seed: int
    alpha_edit: float
    alpha_base: float
    group_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed: expected an integer with 0 <= seed < 2**64, got {self.seed}.")
        _check_strength("alpha_edit", self.alpha_edit)
        _check_strength("alpha_base", self.alpha_base)
        _check_group_size(self.group_size)

    def reference(self, tokens: int, channels: int) -> Tensor:
        """The unperturbed noise, float32 [N, C] on the CPU; the same for every strength and group size."""
        return self._standard_normal("reference", tokens, channels)

    def draw(self, edit_mask: Tensor, channels: int) -> Tensor:
        """Noise of the group, float32 [G, N, C] on the CPU; `edit_mask` is [N] in [0, 1], 1 = editable."""
        tokens = edit_mask.numel()
        reference = self.reference(tokens, channels)
        deltas = [self._standard_normal(f"candidate {index}", tokens, channels) for index in range(1, self.group_size)]
        if not deltas:
            return reference[None]
        perturbed = perturb(reference, torch.stack(deltas), edit_mask.cpu(), self.alpha_edit, self.alpha_base)
        return torch.cat([reference[None], perturbed])

    def draw_step(self, step: int, candidates: Sequence[int], tokens: int, channels: int) -> Tensor:
        """Noise that is added to some candidates at a solver step, float32 [len(candidates), N, C] on the CPU."""
        streams = (f"step {step} candidate {index}" for index in candidates)
        return torch.stack([self._standard_normal(stream, tokens, channels) for stream in streams])

    def _standard_normal(self, stream: str, tokens: int, channels: int) -> Tensor:
        return standard_normal(self.seed, stream, tokens, channels)


def standard_normal(seed: int, stream: str, tokens: int, channels: int) -> Tensor:
    """Noise float32 [N, C] on the CPU, which depends on seed and stream alone."""
    # torch's CPU generator keeps only the low 32 bits of its seed, and its normal numbers depend on the vector unit of
    # the processor. Philox takes a 128-bit key and is scalar code: a recipe means the same noise on every machine.
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest(), "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal((tokens, channels), dtype=np.float32)
    return torch.from_numpy(values)


def noise_digest(noise: Tensor) -> str:
    """A fingerprint of drawn noise, [G, N, C] on any device, equal on every machine that draws the same."""
    return hashlib.blake2b(noise.to("cpu", torch.float32).contiguous().numpy().tobytes(), digest_size=16).hexdigest()


def _check_strength(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: expected a value in [0, 1] (0 = no perturbation, 1 = fresh noise), got {value}.")


def _check_group_size(group_size: int) -> None:
    if group_size < 1:
        raise ValueError(f"group_size: expected at least 1, the reference included, got {group_size}.")
