"""A user's own scorer, by dotted path.

    # my_package/scorers.py                       rewards:
    import numpy as np                              scorers: {sharpness: "my_package.scorers:sharpness"}
                                                    weights: {edit_score: 1.0, sharpness: 0.1}
    def sharpness(given):
        grey = given.images.mean(axis=3)
        return np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2)) / 255

`given` is a `rewards.scorer_api.ScoreInput`: `given.images` uint8 [G, H, W, 3], `given.task` with source, edit_mask,
instruction, target, and `given.acd`. The function returns one number per candidate, larger is better: a list, a numpy
array or a torch tensor [G]; in a list, `rewards.result.Score(error="...")` stands where there is no number. It may be
`async`.

It runs in a process of its own, one group at a time (`rewards.scorer_processes` of them work at the same time), so
that whatever it does costs no more than the scores of its candidates: it may raise, exit, crash, hang or write into
its input. A process that is lost is replaced.
"""
