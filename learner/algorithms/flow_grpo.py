"""Flow-GRPO (arXiv 2505.05470), with its later variants as settings.

Released code: yifan123/flow_grpo @ 31c71b9. Every candidate has initial noise of its own, all steps but the last are
noisy and trained, advantages are divided by the spread of the whole step (`advantage.kind global_std`).

    Flow-GRPO-Fast    --algorithm.shared_prefix true --algorithm.alpha_edit 0 --algorithm.alpha_base 0
                      --algorithm.window_start 0 --algorithm.window_size 2
    GRPO-Guard        --algorithm.ratio guard                                           (arXiv 2510.22319)
    cps               --algorithm.sde cps --algorithm.noise_level 0.8 --algorithm.clip 1e-5

What differs here: the last step adds no noise (there it does, and its transition is dropped from training), and the
standard deviation over the step leaves out candidates without a reward.
"""

from learner.algorithms.transitions import ClippedLikelihood


class FlowGrpo(ClippedLikelihood):
    """See `learner.algorithms.base.Algorithm`."""
