"""The optimizer of the adapter: AdamW, which leaves the weights alone where the gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from configs.schema import OptimizerConfig


class AdapterOptimizer:
    """AdamW over the adapter's parameters, in the plain loop: the same bits everywhere."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._parameters, self._max_norm = parameters, config.max_grad_norm
        self.adamw = torch.optim.AdamW(
            parameters.values(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=False,
            fused=False,
        )

    def step(self, lr: float) -> float:
        """Updates with the accumulated gradient, clipped, and clears it; its norm. One that is not finite changes
        nothing."""
        norm: float = nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm, foreach=False).item()
        if math.isfinite(norm):
            for settings in self.adamw.param_groups:
                settings["lr"] = lr
            self.adamw.step()
        self.clear()
        return norm

    def clear(self) -> None:
        """Forgets the accumulated gradient."""
        self.adamw.zero_grad(set_to_none=True)

    def gradient_is_finite(self) -> bool:
        """Whether the gradient accumulated so far is."""
        gradients = [one.grad for one in self._parameters.values() if one.grad is not None]
        return bool(nn.utils.get_total_norm(gradients, foreach=False).isfinite())
