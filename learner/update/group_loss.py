"""The loss of one group: the method's own terms and the preservation terms, at the method's queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from configs.method_families import MethodConfig
from editing.flow import Velocity
from learner.algorithms import preservation_terms
from learner.algorithms.base import SIGNAL, AnyAlgorithm, Queries, Term, Velocities
from learner.algorithms.loss_terms import GroupStats, backward_through_velocity, gradient_norms
from learner.algorithms.preservation_terms import BACKGROUND
from learner.algorithms.preservation_unit import tells


@dataclass(frozen=True, eq=False)
class GroupLoss:
    """What a group is trained on.

    Attributes:
        method, config: whose terms and weights.
        queries: of the group.
        silent: its rewards have nothing to say.
        source, mask: [N, C], [N]: the clean source latents, and the edit region of the preservation terms.
        velocity: (x [b, N, C], sigma [b]) -> v [b, N, C] under the weights that are trained.
        reference: the same without the adapter; only called where a term asks for it.
        micro_batch: queries per forward and backward; None = all.
    """

    method: AnyAlgorithm
    config: MethodConfig
    queries: Queries
    silent: bool
    source: Tensor
    mask: Tensor
    velocity: Velocity
    reference: Velocity
    micro_batch: int | None

    def accumulate(self, old: Tensor | None, scale: float, unit: float) -> tuple[GroupStats, Tensor | None]:
        """Adds scale * gradient of the loss to the parameters behind `velocity`.

        A silent group, or a method of weight 0, has the preservation terms alone; with those off it has no gradient and
        costs no forward.

        Args:
            old: [P, N, C], velocities under the behaviour policy; None = the present weights are those.
            scale: factor of the gradient, 1 / groups per step.
            unit: factor of the preservation weights, see `learner.algorithms.preservation_unit`.

        Returns:
            The numbers, and the velocities [P, N, C] under the present weights, detached; None without a forward.
        """
        silent = self.silent or self.config.weight == 0
        preservation = self.config.preservation
        if silent and not (unit and preservation_terms.preserves(preservation)):
            return GroupStats(), None

        def terms_of(queries: Queries, velocity: Velocities) -> Mapping[str, Term]:
            own = {} if silent else self.method.terms(queries, velocity)
            held = preservation_terms.preservation_terms(queries, velocity, self.source, self.mask, preservation, unit)
            return {**own, **held}

        return backward_through_velocity(
            self.queries, self.velocity, terms_of, old, self.reference, self.micro_batch, scale
        )

    def bare_norms(self) -> tuple[float, float, float]:
        """(surrogate, background, 1): both terms' gradient norms at the velocities, at weight 1 and ratio 1, and that
        the group was counted; zeros where they tell nothing of the unit (`learner.algorithms.preservation_unit`)."""
        if self.silent:
            return 0.0, 0.0, 0.0

        def terms_of(queries: Queries, velocity: Velocities) -> Mapping[str, Term]:
            own = self.method.terms(queries, velocity)[SIGNAL]
            value = preservation_terms.background(
                queries.x[velocity.rows],
                queries.sigma[velocity.rows],
                velocity.new,
                self.source,
                self.mask,
                self.config.preservation,
            )
            return {SIGNAL: replace(own, weight=1.0), BACKGROUND: Term(value, 1.0)}

        norms = gradient_norms(self.queries, self.velocity, terms_of, None, self.reference, self.micro_batch)
        surrogate, background = norms[SIGNAL], norms[BACKGROUND]
        return (surrogate, background, 1.0) if tells(surrogate, background) else (0.0, 0.0, 0.0)
