"""Settings of the methods that learn from given images of the data in place of rollouts: targets, or ranked edits.

Nothing is rolled out, so nothing is rewarded: `rewards.weights` is the component `rank` alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from configs.method_families import Family, MethodConfig

GivenImages = Literal["target", "pair"]


class DataMethod(MethodConfig):
    """A method that learns from given images."""

    given: ClassVar[GivenImages]  # what is taken of a task: its target, or two of its ranked edits, the better first

    samples: int = Field(4, ge=1)
    """Noise levels per image (of a pair: shared by both) and step, one of each equal part of the sampler's grid."""
    background: Literal["source", "given"] = "source"
    """What images are outside the edit mask. source: the source, pixel by pixel, so that nothing is learnt that an
    image happens to change there; given: as they are."""

    @property
    def family(self) -> Family:
        return "data"

    def fault(self, steps: int, group_size: int) -> str | None:
        if self.preservation.background_target is not None:
            return (
                "algorithm.preservation.background_target: expected none with algorithm.type "
                f"{self.type}, got {self.preservation.background_target:g}; it is measured on rollouts, and given "
                "images do not follow the weights"
            )
        return super().fault(steps, group_size)

    def candidates(self, group_size: int) -> int:
        return {"target": 1, "pair": 2}[self.given]

    def query_count(self, steps: int, group_size: int) -> int:
        return self.samples * self.candidates(group_size)

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        return 1, 0


class SftConfig(DataMethod):
    """Supervised fine-tuning on the tasks' targets: the flow-matching loss (arXiv 2210.02747)."""

    given: ClassVar[GivenImages] = "target"

    type: Literal["sft"] = "sft"
    """Which method."""
    edit_weight: float = Field(1.0, gt=0)
    """Weight of a token inside the edit mask, where one outside has 1."""


class DpoConfig(DataMethod):
    """Diffusion-DPO (arXiv 2311.12908) on pairs of ranked edits, with the base as its reference."""

    given: ClassVar[GivenImages] = "pair"
    least_batch: ClassVar[int] = 2

    type: Literal["dpo"] = "dpo"
    """Which method."""
    beta: float = Field(2000.0, gt=0)
    """How soon a pair is settled: the pull falls with beta / 2 times how much better than the base the preferred image
    is told from the other."""
    samples: int = Field(2, ge=1)
    """Noise levels per pair and step, one of each equal part of the sampler's grid; both images share level and
    noise."""
    background: Literal["source", "given"] = "given"
    """What images are outside the edit mask. source: the source, so that preferences are about the edit alone; given:
    as they are, so that a damaged background counts against an edit."""
