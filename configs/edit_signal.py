"""Whether a configuration can train an edit: something must reward it, or hold it as the base editor makes it.

Rewards for the background and for attention are largest where nothing is edited. A run that has no others teaches its
editor to copy the source: measured on the embedded benchmark, 40 steps of them take edit accuracy from .605 to .133.
"""

from __future__ import annotations

from configs.errors import ConfigError
from configs.rewards import COMPONENT_KINDS, COMPONENT_RANGES, RewardsConfig
from configs.schema import RunConfig

NEGLIGIBLE = 0.01
"""A reward whose weight times range is below this share of all rewards' is drowned by them: it rewards nothing."""

KEPT = "no reward for it: the edit is held as the base editor makes it (preset keep_the_rest)"
WAYS_OUT = (
    (
        "a judge, once it is served",
        "--rewards.judge.qwen_vl.urls '[http://127.0.0.1:8000/v1]' --rewards.weights.qwen_vl 1",
    ),
    ("target images in the data", "--rewards.weights '{edit_psnr: 0.25, background_psnr: 0.05}'"),
    ("an embedding model of image and text", "--rewards.embedding.clip.path clip --rewards.weights.clip_text 1"),
    ("a scorer of your own", "--rewards.scorers.mine my_scorers:mine --rewards.weights.mine 1"),
    (
        KEPT,
        "--learner.preservation.velocity_weight 2 --learner.preservation.velocity_region edit "
        "--learner.preservation.undone_weight 30",
    ),
)
"""What to add to a configuration that would train no edit: in words, and as flags."""


def kinds_of(rewards: RewardsConfig) -> dict[str, str]:
    """What each component rewards; a scorer of the user's own the edit unless `rewards.scorer_kinds` says otherwise."""
    return {**COMPONENT_KINDS, **dict.fromkeys(rewards.scorers, "edit"), **rewards.scorer_kinds}


def edit_rewards(rewards: RewardsConfig) -> tuple[str, ...]:
    """The components that reward the edit: of kind `edit`, with a weight above 0 that is not negligible, and with a
    noise floor that their spread can be above.

    The range of a scorer of the user's own is not known, so that any weight above 0 counts. Normalised components all
    have the same spread, whatever their range.
    """
    kinds = kinds_of(rewards)
    raw = rewards.normalisation == "none"
    widths = {name: COMPONENT_RANGES[name].width if name in COMPONENT_RANGES else None for name in rewards.weights}
    sizes = {name: abs(weight) * ((widths[name] or 1.0) if raw else 1.0) for name, weight in rewards.weights.items()}
    least = NEGLIGIBLE * sum(sizes.values())

    def counts(name: str) -> bool:
        width = widths[name]
        if width is None:
            return raw or sizes[name] >= least
        # Values between two bounds have a standard deviation of at most half their distance.
        return sizes[name] >= least and rewards.noise_floors[name] < width / 2

    return tuple(
        name for name, weight in rewards.weights.items() if weight > 0 and kinds[name] == "edit" and counts(name)
    )


def keeps_the_edit(config: RunConfig) -> bool:
    """Whether the velocity is anchored to the base editor's inside the mask too, so that the edit stays what it was.

    How firmly, its weight does not say by itself: the pull is zero at the base and grows with the distance from it.
    """
    preservation = config.learner.preservation
    return preservation.velocity_weight > 0 and preservation.velocity_region != "background"


def check_edit_signal(config: RunConfig) -> None:
    """Refuses a configuration in which nothing rewards or keeps the edit, or in which a reward for it is never used.

    Raises:
        ConfigError: with the ways out, each as flags to add.
    """
    for name, weight in config.rewards.weights.items():
        if weight < 0 and COMPONENT_KINDS.get(name) == "edit":
            raise ConfigError(
                f"rewards.weights.{name}: expected a weight of at least 0, got {weight:g}; it would "
                "reward an edit that is not done"
            )
    rewarding, used = edit_rewards(config.rewards), config.learner.surrogate.weight > 0
    through = "" if used else " --learner.surrogate.weight 1"
    if rewarding and not used:
        raise ConfigError(
            f"learner.surrogate.weight: expected a weight above 0, got 0; {rewarding[0]} rewards the edit, but no "
            "reward reaches the weights without the surrogate. Add --learner.surrogate.weight 1, or leave "
            f"{rewarding[0]} out of rewards.weights"
        )
    if rewarding or keeps_the_edit(config):
        return
    kinds = kinds_of(config.rewards)
    negligible = (
        ""
        if not any(weight > 0 and kinds[name] == "edit" for name, weight in config.rewards.weights.items())
        else (f" (one below {NEGLIGIBLE:.0%} of all rewards, by weight times range, does not count)")
    )
    weights = ", ".join(f"{name} {weight:g}" for name, weight in config.rewards.weights.items())
    raise ConfigError(
        "\n".join(
            [
                f"rewards.weights: expected a reward for the edit{negligible}, got {weights}; nothing here "
                "rewards the edit or "
                "keeps it, so the run would teach the editor to change nothing. Add one of",
                *(f"  {flags}{'' if words == KEPT else through}\n      {words}" for words, flags in WAYS_OUT),
            ]
        )
    )
