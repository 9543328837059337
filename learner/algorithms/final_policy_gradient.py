"""Policy gradients on final samples: what stands for their likelihood is how well the velocity points back at them.

epg, pepg     learner.algorithms.final_sample      (the design-space study behind rethinking-diffusion-rl)
awm           learner.algorithms.flow_matching     (arXiv 2509.25050)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from configs.algorithms import FinalSampleConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Ratio, Term, Velocities
from learner.algorithms.final_queries import FinalQueries, final_queries
from learner.algorithms.final_sample import elbo, policy_gradient_loss
from learner.algorithms.flow_matching import awm_loss, flow_matching_loss


class FinalPolicyGradient:
    """See `learner.algorithms.base.Algorithm`."""

    def __init__(self, config: FinalSampleConfig) -> None:
        self._config = config

    def queries(self, group: GroupTensors) -> FinalQueries:
        """Final samples, noised again."""
        return final_queries(group, self._config.samples)

    def terms(self, queries: FinalQueries, velocity: Velocities) -> Mapping[str, Term]:
        """The loss, and how far its ratios have gone."""
        config, advantages = self._config, queries.advantages[velocity.rows]
        log_new, log_old = velocity.of_both(partial(self._log_likelihood, queries, velocity.rows))
        moved = (log_new - log_old).detach().exp() - 1
        if config.form == "awm":
            loss = awm_loss(log_new, log_old, advantages, config.clip)
            clipped = (advantages * moved > advantages.abs() * config.clip).float().mean()
        else:
            loss, clipped = policy_gradient_loss(log_new, log_old, advantages, config.form), moved.new_zeros(())
        return {SIGNAL: Term(loss.mean(), config.weight, Ratio(moved.abs().max(), clipped))}

    def _log_likelihood(self, queries: FinalQueries, rows: slice, velocity: Tensor) -> Tensor:
        if self._config.form == "awm":
            return -flow_matching_loss(velocity, queries.x0[rows], queries.noise[rows])
        return elbo(queries.x0[rows], queries.x[rows], queries.sigma[rows], velocity)
