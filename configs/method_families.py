"""What methods have in common, and the families of those that learn from rollouts.

A family is what a method learns from (`editing.rollout_spec`): anchors of a deterministic rollout, the noisy
transitions of a stochastic one, or the final samples alone. Those that learn from given images are in
`configs.data_methods`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.section import Section

Strength = Annotated[float, Field(ge=0, le=1)]


class AdvantageConfig(Section):
    """Group-relative advantages."""

    kind: Literal["std", "quasi_norm", "global_std"] = "std"
    """std: (r - mean) / std (arXiv 2604.09386, Eq. 4); quasi_norm: arXiv 2511.16955, Eq. 11; global_std: divided by the
    standard deviation over all candidates of the step (Flow-GRPO)."""
    p: float = Field(0.8, gt=0, le=2)
    """Exponent of the quasi-norm."""
    clip: float = Field(5.0, gt=0)
    """Advantages are clipped to ± this value."""
    damping: float = Field(0.0, ge=0)
    """Added to the spread that advantages are divided by, in units of the combined reward: groups with little spread
    count less."""


class PreservationConfig(Section):
    """Terms that preserve what must not change; all off for the papers' exact recipes.

    Weights are in units of the method's own gradient at the start of the run (see
    `learner.algorithms.preservation_unit`), so that they mean the same for every editor; without a reward
    (algorithm.weight 0) they are plain factors.
    """

    background_weight: float = Field(0.0, ge=0)
    """Pull of the source-anchored background term, mean over background tokens of a squared error, at the start of the
    run; 1 = as strong as the method's own."""
    background_error: Literal["estimate", "velocity"] = "estimate"
    """estimate: x0_hat - z_source, whose pull on the velocity fades with sigma²; velocity: that divided by sigma, the
    velocity's distance from the one that leads straight to the source, which pulls alike at every step."""
    background_target: float | None = Field(None, gt=0, lt=60)
    """Background PSNR in dB that the candidates are held to on average: after every step the background term's weight,
    which begins at `background_weight`, rises if they were below it and falls otherwise; null: the weight is fixed."""
    background_rate: float = Field(0.05, gt=0, le=1)
    """Largest change of the logarithm of that weight in a step: where the target is missed by 1 dB or more; below, in
    proportion."""
    background_tolerance: float = Field(0.0, ge=0)
    """Per-token mean of (x0_hat - z_source)² below which the background term is zero (a hinge)."""
    velocity_weight: float = Field(0.0, ge=0)
    """Weight of the velocity anchor to the frozen base, mean ||v - v_base||², in the background term's unit."""
    velocity_region: Literal["everywhere", "background", "edit"] = "everywhere"
    """Where the velocity anchor acts; `edit` preserves the base's edit (preset keep_the_rest)."""
    undone_weight: float = Field(0.0, ge=0)
    """Weight of the squared share of the base's edit that is undone inside the mask, in the background term's unit."""


class CreditConfig(Section):
    """Which rewards reach which tokens."""

    per: Literal["candidate", "region"] = "candidate"
    """candidate: one advantage for all tokens of a candidate; region: rewards are split by what they reward, see
    `rewards.regions`, standardised in every region by themselves, and reach its tokens alone."""
    ring: int = Field(0, ge=0)
    """Width in tokens of the soft border of a region, on either side; 0 leaves regions as the mask has them."""
    weights: dict[str, float] = Field({})
    """Weight per region (edit, background, or one of the task's); 1 where not given."""


LearnsFrom = Literal["anchors", "transitions", "final"]
Family = Literal["anchors", "transitions", "final", "data"]


class MethodConfig(Section):
    """What every method has."""

    default_lr: ClassVar[float] = 2e-3
    """`learner.optimizer.lr` where none is stated. Chosen on the embedded benchmark for RC-GRPO; not tuned where a
    method does not say otherwise: rates of released code belong to editors thousands of times as large."""
    least_batch: ClassVar[int] = 1  # queries that go through the transformer together

    type: str
    """Which method."""
    weight: float = Field(1.0, ge=0)
    """Weight of the method's own term; 0 trains on the preservation terms alone, whatever the rewards."""
    preservation: PreservationConfig = PreservationConfig()

    @property
    @abstractmethod
    def family(self) -> Family:
        """What the method learns from."""

    def candidates(self, group_size: int) -> int:
        """G, the candidates of a group, at `sampler.group_size`."""
        return group_size

    def fault(self, steps: int, group_size: int) -> str | None:
        """What does not go with `sampler.steps` and `sampler.group_size`, as a sentence that begins with its key."""
        if self.preservation.background_target is not None and self.preservation.background_weight == 0:
            return (
                "algorithm.preservation.background_weight: expected a weight above 0 to begin with, as "
                "algorithm.preservation.background_target is set, got 0; such as --algorithm.preservation."
                "background_weight 0.2"
            )
        return None

    @property
    def rolls_out_mean(self) -> bool:
        """Whether rollouts are made under the running mean of the weights."""
        return False

    @property
    def by_region(self) -> CreditConfig | None:
        """How rewards are split over regions; None = one advantage per candidate."""
        return None

    @property
    def restarts(self) -> bool:
        """Whether the anchors' initial noise is drawn again."""
        return False

    @property
    def compares_groups(self) -> bool:
        """Whether the advantages of a group depend on the other groups of its step."""
        return False

    @abstractmethod
    def query_count(self, steps: int, group_size: int) -> int:
        """Velocities that a group is asked for, at `sampler.steps` and `sampler.group_size`."""

    @property
    def own_code(self) -> tuple[str, ...]:
        """Dotted paths of code that is the user's own."""
        return ()

    @property
    def way_count(self) -> int:
        """Velocities of a group on the way to the states that it is asked at, where the gradient goes back there."""
        return 0

    @abstractmethod
    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        """(K, B): how many steps of a rollout are kept, and of how many candidates also the states before them."""


class RolloutMethod(MethodConfig):
    """A method that learns from rollouts, by their rewards."""

    alpha_edit: Strength = 0.8
    """Perturbation of the initial noise inside the edit mask (arXiv 2604.09386, Eq. 10-11); 0 = the same noise for all
    candidates, 1 = noise of their own."""
    alpha_base: Strength = 0.05
    """Perturbation outside it; global perturbation if equal to `alpha_edit`."""
    advantage: AdvantageConfig = AdvantageConfig()

    def fault(self, steps: int, group_size: int) -> str | None:
        if (found := MethodConfig.fault(self, steps, group_size)) is not None:
            return found
        if self.alpha_base > self.alpha_edit:
            return (
                "algorithm.alpha_base: expected at most algorithm.alpha_edit, got "
                f"{self.alpha_base} > {self.alpha_edit}"
            )
        if self.alpha_edit == 0 and self.family != "transitions":
            return (
                "algorithm.alpha_edit: expected a strength above 0, got 0; without noise on the way the candidates "
                "of a group would all be the same"
            )
        return None

    @property
    def compares_groups(self) -> bool:
        return self.advantage.kind == "global_std"


class RegionMethod(RolloutMethod):
    """A method that can give every region an advantage of its own."""

    credit: CreditConfig = CreditConfig()

    @property
    def by_region(self) -> CreditConfig | None:
        return self.credit if self.credit.per == "region" else None


class AnchorMethod(RolloutMethod):
    """A method that learns from anchors of a deterministic rollout."""

    needs_final: ClassVar[bool] = False  # the final samples are kept, too

    anchors: int = Field(2, ge=1)
    """Anchors per group, drawn among the perturbed candidates (B)."""
    trained_steps: tuple[int, ...] = (1, 2, 3)
    """Steps whose one-step prediction is trained: step j goes from sigma_j to sigma_{j+1}."""

    @property
    def family(self) -> LearnsFrom:
        return "anchors"

    def fault(self, steps: int, group_size: int) -> str | None:
        trained = self.trained_steps
        if not trained or sorted(set(trained)) != list(trained) or trained[0] < 0 or trained[-1] >= steps:
            return (
                f"algorithm.trained_steps: expected increasing step numbers in 0..{steps - 1} "
                f"(sampler.steps is {steps}), got {list(trained)}"
            )
        if self.anchors > group_size - 1:
            return (
                f"algorithm.anchors: expected at most sampler.group_size - 1 = {group_size - 1} (the reference is "
                f"never an anchor), got {self.anchors}"
            )
        return RolloutMethod.fault(self, steps, group_size)

    def query_count(self, steps: int, group_size: int) -> int:
        return len(self.trained_steps) * self.anchors

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        return len(self.kept_steps(steps)), self.anchors

    def kept_steps(self, steps: int) -> tuple[int, ...]:
        """The trained steps, and the last one where the method needs the final samples."""
        last = steps - 1
        return (
            (*self.trained_steps, last) if self.needs_final and self.trained_steps[-1] != last else self.trained_steps
        )


class SurrogateMethod(AnchorMethod):
    """A method on the surrogate policy of RC-GRPO-Editing, a softmax over masked distances."""

    tau_edit: float = Field(0.9, gt=0)
    """Bandwidth inside the mask."""
    tau_base: float = Field(1.1, gt=0)
    """Bandwidth outside the mask."""
    tau_power: Literal[1, 2] = 2
    """Power of the bandwidths in the metric."""
    clip: float = Field(1e-3, gt=0, lt=1)
    """Clip range of the ratio; the region-normalised metric moves ratios by about 1e-3."""
    kl_weight: float = Field(0.0, ge=0)
    """Weight of the exact categorical KL(old || new)."""
    anchor_mode: Literal["leap", "reintegrate_detached", "reintegrate_full"] = "leap"
    """Where an anchor's last step begins. leap: at the stored state; reintegrate_detached: where the present weights
    lead from the initial noise (Eq. 13), without a gradient; reintegrate_full: with that of the whole way."""

    @property
    def restarts(self) -> bool:
        return self.anchor_mode != "leap"

    @property
    def way_count(self) -> int:
        return self.anchors * self.trained_steps[-1] if self.anchor_mode == "reintegrate_full" else 0

    @property
    @abstractmethod
    def factored(self) -> bool:
        """Whether every region has a softmax of its own."""


class LikelihoodMethod(RolloutMethod):
    """A method that learns from the likelihood of noisy steps."""

    alpha_edit: Strength = 1.0
    """Perturbation of the initial noise: 1 = noise of its own for every candidate, 0 = the same for all."""
    alpha_base: Strength = 1.0
    """Likewise outside the mask."""
    sde: Literal["sde", "cps", "dance"] = "sde"
    """How noise is added at a step: `sde` as Flow-GRPO, `cps` preserving the noise levels' coefficients, `dance` with a
    constant strength as DanceGRPO."""
    noise_level: float = Field(0.9, ge=0)
    """Strength of that noise; in 0..1 for cps."""
    window_start: int = Field(0, ge=0)
    """First noisy step."""
    window_size: int | None = Field(None, ge=1)
    """Number of noisy steps; null: all from `window_start` but the last step."""
    window_every: int = Field(0, ge=0)
    """Optimizer steps after which the window moves on by one, from the last place to the first; 0 keeps it."""
    shared_prefix: bool = False
    """Integrate the steps before the window once for the whole group, from one initial noise."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the noisy steps that is trained, drawn for every group."""
    clip: float = Field(1e-4, gt=0, lt=1)
    """Clip range of the ratio; log-probabilities are means over elements."""
    ratio: Literal["mean", "guard"] = "mean"
    """mean: exp of the mean log-ratio; guard: GRPO-Guard's (arXiv 2510.22319), unbiased and alike at every step."""
    kl_weight: float = Field(0.0, ge=0)
    """Weight of the KL to the base's steps."""

    @property
    def family(self) -> LearnsFrom:
        return "transitions"

    def fault(self, steps: int, group_size: int) -> str | None:
        size = self.window_size or 1
        if self.window_start + size > steps - 1:
            return (
                f"algorithm.window_start: expected a window of noisy steps within 0..{steps - 2} (sampler.steps is "
                f"{steps}, and the last step adds no noise), got {size} from {self.window_start}"
            )
        if self.sde == "cps" and self.noise_level > 1:
            return f"algorithm.noise_level: expected 0 to 1 with algorithm.sde cps, got {self.noise_level:g}"
        if self.noise_level == 0:
            return "algorithm.noise_level: expected a level above 0, got 0; the likelihood of a step needs noise"
        if self.shared_prefix and self.alpha_edit > 0:
            return (
                "algorithm.shared_prefix: expected algorithm.alpha_edit 0 with it (one initial noise for the group), "
                f"got {self.alpha_edit:g}"
            )
        return RolloutMethod.fault(self, steps, group_size)

    def window(self, steps: int, step: int) -> tuple[int, ...]:
        """The noisy steps of a rollout of `steps` solver steps for optimizer step `step`; the last one never is."""
        last = steps - 1
        size = last - self.window_start if self.window_size is None else self.window_size
        places = last - self.window_start - size + 1
        moved = step // self.window_every % places if self.window_every else 0
        first = self.window_start + moved
        return tuple(range(first, first + size))

    def trained(self, size: int) -> int:
        """How many steps of a window of `size` are trained."""
        return max(1, int(self.fraction * size))

    def query_count(self, steps: int, group_size: int) -> int:
        return self.trained(len(self.window(steps, 0))) * group_size

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        return self.trained(len(self.window(steps, 0))), group_size


class FinalSampleMethod(RolloutMethod):
    """A method that learns from the final samples, noised again."""

    alpha_edit: Strength = 1.0
    """Perturbation of the initial noise: 1 = noise of its own for every candidate."""
    alpha_base: Strength = 1.0
    """Likewise outside the mask."""
    samples: int = Field(1, ge=1)
    """Noise levels per candidate and step, drawn from the sampler's grid without its last."""
    behaviour: Literal["current", "ema"] = "current"
    """Whose rollouts are trained on: the present weights, or their running mean."""

    @property
    def family(self) -> LearnsFrom:
        return "final"

    def fault(self, steps: int, group_size: int) -> str | None:
        if self.samples > steps - 1:
            return (
                f"algorithm.samples: expected at most {steps - 1} noise levels per candidate (sampler.steps is "
                f"{steps}, and the last level is left out), got {self.samples}"
            )
        return RolloutMethod.fault(self, steps, group_size)

    @property
    def rolls_out_mean(self) -> bool:
        return self.behaviour == "ema"

    def query_count(self, steps: int, group_size: int) -> int:
        return self.samples * group_size

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        return 1, 1
