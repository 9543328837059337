"""Whether a configuration can train an edit: something must reward it, or anchor it to the base editor's.

Rewards for the background and for attention are largest where nothing is edited. With no others, a run teaches its
editor to copy the source: on the embedded benchmark, 40 such steps take edit accuracy from .605 to .133.
"""

from __future__ import annotations

from configs.components import COMPONENT_KINDS, COMPONENT_RANGES
from configs.errors import ConfigError
from configs.method_families import MethodConfig, PreservationConfig
from configs.rewards import RewardsConfig
from configs.schema import RunConfig

NEGLIGIBLE = 0.01
"""A reward whose weight times range is below this share of the total is drowned out by the others and ignored."""

KEPT = "no reward: the edit is anchored to the base editor's (preset keep_the_rest)"
WAYS_OUT = (
    (
        "a judge, once it is served",
        "--rewards.judge.qwen_vl.urls '[http://127.0.0.1:8000/v1]' --rewards.weights.qwen_vl 1",
    ),
    ("target images in the dataset", "--rewards.weights '{edit_psnr: 0.25, background_psnr: 0.05}'"),
    ("an image-text embedding model", "--rewards.embedding.clip.path clip --rewards.weights.clip_text 1"),
    ("your own scorer", "--rewards.scorers.mine my_scorers:mine --rewards.weights.mine 1"),
    (
        KEPT,
        "--algorithm.preservation.velocity_weight 2 --algorithm.preservation.velocity_region edit "
        "--algorithm.preservation.undone_weight 30",
    ),
)
"""What to add to a configuration that would train no edit: (description, flags)."""


def edit_rewards(rewards: RewardsConfig) -> tuple[str, ...]:
    """The components that reward the edit: kind `edit`, a positive weight that is not negligible, and a noise floor
    that their spread can exceed.

    The range of a user's scorer is unknown, so any positive weight counts. Normalised components all have the same
    spread, whatever their range; so do those of a gated reward, where a weight counts among the rewards for the edit.
    """
    kinds, gated = rewards.kinds, rewards.composition == "gated"
    raw = rewards.normalisation == "none" and not gated
    widths = {name: COMPONENT_RANGES[name].width if name in COMPONENT_RANGES else None for name in rewards.weights}
    sizes = {name: abs(weight) * ((widths[name] or 1.0) if raw else 1.0) for name, weight in rewards.weights.items()}
    least = NEGLIGIBLE * sum(size for name, size in sizes.items() if not gated or kinds[name] == "edit")

    def counts(name: str) -> bool:
        width = widths[name]
        if width is None:
            return raw or sizes[name] >= least
        # The standard deviation of a bounded variable is at most half the width of its range.
        return sizes[name] >= least and rewards.noise_floors[name] < width / 2

    return tuple(
        name for name, weight in rewards.weights.items() if weight > 0 and kinds[name] == "edit" and counts(name)
    )


def keeps_the_edit(preservation: PreservationConfig) -> bool:
    """Whether the velocity is anchored to the base editor's inside the mask too, so that the edit is preserved.

    The weight alone does not say how firmly: the pull is zero at the base and grows with the distance from it.
    """
    return preservation.velocity_weight > 0 and preservation.velocity_region != "background"


def check_edit_signal(config: RunConfig) -> None:
    """Reject a configuration in which nothing rewards or preserves the edit, or whose reward for it is never used.

    Raises:
        ConfigError: lists the flags that fix it.
    """
    for name, weight in config.rewards.weights.items():
        if weight < 0 and COMPONENT_KINDS.get(name) == "edit":
            raise ConfigError(
                f"rewards.weights.{name}: expected a weight of at least 0, got {weight:g}; it would "
                "reward not making the edit"
            )
    if config.algorithm.family == "data":
        _check_given_images(config.algorithm)
        return
    rewarding, used = edit_rewards(config.rewards), config.algorithm.weight > 0
    through = "" if used else " --algorithm.weight 1"
    if rewarding and not used:
        raise ConfigError(
            f"algorithm.weight: expected a weight above 0, got 0; {rewarding[0]} rewards the edit, but "
            "rewards train nothing without the method's own term. Add --algorithm.weight 1, or remove "
            f"{rewarding[0]} from rewards.weights"
        )
    if rewarding or keeps_the_edit(config.algorithm.preservation):
        return
    kinds = config.rewards.kinds
    negligible = (
        ""
        if not any(weight > 0 and kinds[name] == "edit" for name, weight in config.rewards.weights.items())
        else (f" (one below {NEGLIGIBLE:.0%} of the total weight times range does not count)")
    )
    weights = ", ".join(f"{name} {weight:g}" for name, weight in config.rewards.weights.items())
    raise ConfigError(
        "\n".join(
            [
                f"rewards.weights: expected a reward for the edit{negligible}, got {weights}; nothing here "
                "rewards or preserves the edit, so the run would teach the editor to change nothing. Add one of",
                *(f"  {flags}{'' if words == KEPT else through}\n      {words}" for words, flags in WAYS_OUT),
            ]
        )
    )


def _check_given_images(method: MethodConfig) -> None:
    """Methods that learn from given images need no reward: the edit is in the images, through the method's own term."""
    if method.weight == 0 and not keeps_the_edit(method.preservation):
        raise ConfigError(
            f"algorithm.weight: expected a weight above 0, got 0; without its own term {method.type} learns nothing "
            "from the given images, and nothing else preserves the edit. Add --algorithm.weight 1"
        )
