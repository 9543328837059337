"""Edit-GRPO (arXiv 2605.16951), our reading: a signal of its own for the edit and for what must not change.

    loss = mean over trained steps and anchors of ( -sum_r w_r J_r + kl_weight * KL )

with J_r of `learner.algorithms.factored_surrogate`.

Public are abstract and introduction alone: local intent and a global signal do not match, so that edit and non-edit
areas get signals of their own. Our reading: rewards are split by what they reward, standardised in each region by
themselves (`learner.algorithms.credit.region_advantages`), and each region has a softmax, a ratio and a clip of its
own over its own tokens, with a soft border of one token between them. Noise, anchors and steps are RC-GRPO's, so that
the two differ in credit alone; with `credit.per candidate` all regions have the candidate's one advantage.
"""

from learner.algorithms.rc_grpo import RcGrpo


class EditGrpo(RcGrpo):
    """See `learner.algorithms.base.Algorithm`."""
