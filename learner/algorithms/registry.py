"""The method that a configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from configs.algorithms import CustomConfig
from configs.errors import ConfigError
from configs.method_families import MethodConfig
from learner.algorithms.base import AnyAlgorithm
from learner.algorithms.cocoedit import CoCoEdit
from learner.algorithms.dance_grpo import DanceGrpo
from learner.algorithms.diffusion_nft import DiffusionNft
from learner.algorithms.dpo import Dpo
from learner.algorithms.edit_grpo import EditGrpo
from learner.algorithms.final_policy_gradient import FinalPolicyGradient
from learner.algorithms.flow_grpo import FlowGrpo
from learner.algorithms.locus import Locus
from learner.algorithms.mix_grpo import MixGrpo
from learner.algorithms.neighbor_grpo import NeighborGrpo
from learner.algorithms.rc_grpo import RcGrpo
from learner.algorithms.sft import Sft
from learner.algorithms.spatialflow_grpo import SpatialFlowGrpo


def custom(config: CustomConfig) -> AnyAlgorithm:
    """The user's class at `algorithm.method`.

    Raises:
        ConfigError: when there is none, or it lacks a function of `Algorithm`.
    """
    module_name, _, name = config.method.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ConfigError(
            f"algorithm.method: {module_name} cannot be imported ({error}); is it installed, or on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"algorithm.method: {module_name} has no {name!r}") from error
    lacking = [part for part in ("queries", "terms") if not callable(getattr(found, part, None))]
    if lacking:
        raise ConfigError(
            f"algorithm.method: expected {config.method} to be a class with {lacking[0]}(), see docs/methods.md"
        )
    made: AnyAlgorithm = found(config)
    return made


METHODS: Mapping[str, Callable[[Any], AnyAlgorithm]] = {
    "rc_grpo": RcGrpo,
    "neighbor_grpo": NeighborGrpo,
    "edit_grpo": EditGrpo,
    "locus": Locus,
    "flow_grpo": FlowGrpo,
    "spatialflow_grpo": SpatialFlowGrpo,
    "dance_grpo": DanceGrpo,
    "mix_grpo": MixGrpo,
    "diffusion_nft": DiffusionNft,
    "cocoedit": CoCoEdit,
    "final_sample": FinalPolicyGradient,
    "sft": Sft,
    "dpo": Dpo,
    "custom": custom,
}


def open_algorithm(config: MethodConfig) -> AnyAlgorithm:
    """The method of `config.algorithm`."""
    return METHODS[config.type](config)
