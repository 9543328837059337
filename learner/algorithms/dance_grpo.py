"""DanceGRPO (arXiv 2505.07818): one initial noise for the group, noise of constant strength at every step but the last.

Released code: XueZeyue/DanceGRPO @ 15cc71d, whose image is the clean estimate of the last step, which is what the last
step's Euler step leads to. A share of the noisy steps is trained, drawn for every group (there for every sample).
"""

from learner.algorithms.transitions import ClippedLikelihood


class DanceGrpo(ClippedLikelihood):
    """See `learner.algorithms.base.Algorithm`."""
