"""MixGRPO (arXiv 2507.21802): noise and training in a window of steps that slides over the trajectory, ODE elsewhere.

Released code: Tencent-Hunyuan/MixGRPO @ e5cdd6a, which takes Flow-GRPO's step. What comes before the window is the same
for all candidates, and is integrated once (`algorithm.shared_prefix`). The paper's Flash variant takes a second-order
solver after the window: `--sampler.solver dpm2m`. There, advantages are normalised per reward and summed;
`--rewards.normalisation pooled` scales every reward by its spread inside the groups instead.
"""

from learner.algorithms.transitions import ClippedLikelihood


class MixGrpo(ClippedLikelihood):
    """See `learner.algorithms.base.Algorithm`."""
