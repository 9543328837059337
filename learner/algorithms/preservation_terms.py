"""The preservation terms that any method composes with its own, at the method's queries."""

from __future__ import annotations

from torch import Tensor

from configs.method_families import PreservationConfig
from editing.flow import predicted_clean
from learner.algorithms.base import Queries, Term, Velocities
from learner.algorithms.preservation import source_anchored_background, undone_edit, velocity_anchor

BACKGROUND = "background"


def preserves(config: PreservationConfig) -> bool:
    """Whether any of the terms has a weight."""
    return max(config.background_weight, config.velocity_weight, config.undone_weight) > 0


def preservation_terms(
    queries: Queries, velocity: Velocities, source: Tensor, mask: Tensor, config: PreservationConfig, unit: float
) -> dict[str, Term]:
    """`background`, `velocity_anchor`, `undone_edit`: those of a weight other than 0.

    Args:
        queries: of a group.
        velocity: of some of them.
        source: float32 [N, C], clean source latents.
        mask: float32 [N] in [0, 1], 1 = editable: what the terms take for the edit region.
        config: weights.
        unit: their factor, see `learner.algorithms.preservation_unit`.
    """
    terms: dict[str, Term] = {}
    x, sigma = queries.x[velocity.rows], queries.sigma[velocity.rows]
    if weight := unit * config.background_weight:
        terms[BACKGROUND] = Term(background(x, sigma, velocity.new, source, mask, config), weight)
    if weight := unit * config.velocity_weight:
        value = velocity_anchor(velocity.new, velocity.reference, mask, config.velocity_region)
        terms["velocity_anchor"] = Term(value, weight)
    if weight := unit * config.undone_weight:
        estimate, of_base = predicted_clean(x, velocity.new, sigma), predicted_clean(x, velocity.reference, sigma)
        terms["undone_edit"] = Term(undone_edit(estimate, of_base, source, mask), weight)
    return terms


def background(
    x: Tensor, sigma: Tensor, velocity: Tensor, source: Tensor, mask: Tensor, config: PreservationConfig
) -> Tensor:
    """The source-anchored background of the one-step estimates from x [b, N, C] at sigma [b]."""
    return source_anchored_background(
        predicted_clean(x, velocity, sigma),
        source,
        mask,
        config.background_tolerance,
        sigma if config.background_error == "velocity" else None,
    )
