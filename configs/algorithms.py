"""Settings of the methods: `algorithm.type` chooses one, and every key below it has that method's own default.

Three families, by what a method learns from (`editing.rollout_spec`): anchors of a deterministic rollout, the noisy
transitions of a stochastic one, or the final samples alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

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
    """Pull of the source-anchored background term, mean over background tokens of (x0_hat - z_source)², at the start of
    the run; 1 = as strong as the method's own."""
    background_tolerance: float = Field(0.0, ge=0)
    """Per-token mean squared difference below which the background term is zero (a hinge)."""
    velocity_weight: float = Field(0.0, ge=0)
    """Weight of the velocity anchor to the frozen base, mean ||v - v_base||², in the background term's unit."""
    velocity_region: Literal["everywhere", "background", "edit"] = "everywhere"
    """Where the velocity anchor acts; `edit` preserves the base's edit (preset keep_the_rest)."""
    undone_weight: float = Field(0.0, ge=0)
    """Weight of the squared share of the base's edit that is undone inside the mask, in the background term's unit."""


LearnsFrom = Literal["anchors", "transitions", "final"]


class MethodConfig(Section):
    """What every method has."""

    type: str
    """Which method."""
    weight: float = Field(1.0, ge=0)
    """Weight of the method's own term; 0 trains on the preservation terms alone, whatever the rewards."""
    alpha_edit: Strength = 0.8
    """Perturbation of the initial noise inside the edit mask (arXiv 2604.09386, Eq. 10-11); 0 = the same noise for all
    candidates, 1 = noise of their own."""
    alpha_base: Strength = 0.05
    """Perturbation outside it; global perturbation if equal to `alpha_edit`."""
    advantage: AdvantageConfig = AdvantageConfig()
    preservation: PreservationConfig = PreservationConfig()

    @property
    def family(self) -> LearnsFrom:
        """What the method learns from."""
        raise NotImplementedError

    def fault(self, steps: int, group_size: int) -> str | None:
        """What does not go with `sampler.steps` and `sampler.group_size`, as a sentence that begins with its key."""
        if self.alpha_base > self.alpha_edit:
            return (
                "algorithm.alpha_base: expected at most algorithm.alpha_edit, got "
                f"{self.alpha_base} > {self.alpha_edit}"
            )
        return None

    @property
    def rolls_out_mean(self) -> bool:
        """Whether rollouts are made under the running mean of the weights."""
        return False

    def query_count(self, steps: int, group_size: int) -> int:
        """Velocities that a group is asked for, at `sampler.steps` and `sampler.group_size`."""
        raise NotImplementedError

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        """(K, B): how many steps of a rollout are kept, and of how many candidates also the states before them."""
        raise NotImplementedError


class AnchorMethod(MethodConfig):
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
        if self.alpha_edit == 0:
            return (
                "algorithm.alpha_edit: expected a strength above 0, got 0; without noise on the way the candidates "
                "of a group would all be the same"
            )
        return MethodConfig.fault(self, steps, group_size)

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


class RcGrpoConfig(AnchorMethod):
    """RC-GRPO-Editing (arXiv 2604.09386): the masked surrogate policy (Eq. 13-15) and its clipped objective (Eq. 5)."""

    type: Literal["rc_grpo"] = "rc_grpo"
    """Which method."""
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
    preservation: PreservationConfig = PreservationConfig(background_weight=0.2)


class NeighborGrpoConfig(AnchorMethod):
    """Neighbor GRPO (arXiv 2511.16955): global perturbation, plain squared distances, quasi-norm advantages."""

    type: Literal["neighbor_grpo"] = "neighbor_grpo"
    """Which method."""
    alpha_edit: Strength = 0.8
    """Perturbation of the initial noise; the paper has no mask, so both strengths are equal."""
    alpha_base: Strength = 0.8
    """Equal to `alpha_edit`."""
    clip: float = Field(0.2, gt=0, lt=1)
    """Clip range of the ratio; plain sums of squares move log-ratios by whole units."""
    advantage: AdvantageConfig = AdvantageConfig(kind="quasi_norm")


class LocusConfig(AnchorMethod):
    """Locus: the end-point direction of the group, and the source-anchored background."""

    needs_final: ClassVar[bool] = True

    type: Literal["locus"] = "locus"
    """Which method."""
    gain: float = Field(0.5, gt=0)
    """Size of the step from the old velocities to those that a second update, or a group of older weights, is pulled
    to, in units of the direction; the first update does not depend on it."""
    preservation: PreservationConfig = PreservationConfig(background_weight=0.2)


class LikelihoodMethod(MethodConfig):
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
        return MethodConfig.fault(self, steps, group_size)

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


class FlowGrpoConfig(LikelihoodMethod):
    """Flow-GRPO (arXiv 2505.05470): clipped likelihood ratios of an SDE, advantages by the step's spread."""

    type: Literal["flow_grpo"] = "flow_grpo"
    """Which method."""
    advantage: AdvantageConfig = AdvantageConfig(kind="global_std")


class DanceGrpoConfig(LikelihoodMethod):
    """DanceGRPO (arXiv 2505.07818): one initial noise for the group, an SDE of constant strength, some of its steps."""

    type: Literal["dance_grpo"] = "dance_grpo"
    """Which method."""
    alpha_edit: Strength = 0.0
    """Perturbation of the initial noise: the group shares it."""
    alpha_base: Strength = 0.0
    """Likewise outside the mask."""
    sde: Literal["sde", "cps", "dance"] = "dance"
    """How noise is added at a step."""
    noise_level: float = Field(0.3, ge=0)
    """Strength of that noise (eta)."""
    fraction: float = Field(0.6, gt=0, le=1)
    """Share of the noisy steps that is trained, drawn for every group."""
    advantage: AdvantageConfig = AdvantageConfig(damping=1e-8)


class MixGrpoConfig(LikelihoodMethod):
    """MixGRPO (arXiv 2507.21802): noise and training in a window that slides over the steps, the ODE elsewhere."""

    type: Literal["mix_grpo"] = "mix_grpo"
    """Which method."""
    alpha_edit: Strength = 0.0
    """Perturbation of the initial noise: the group shares it."""
    alpha_base: Strength = 0.0
    """Likewise outside the mask."""
    noise_level: float = Field(0.7, ge=0)
    """Strength of that noise."""
    window_size: int | None = Field(1, ge=1)
    """Number of noisy steps; the paper has 4 of 25."""
    window_every: int = Field(25, ge=0)
    """Optimizer steps after which the window moves on by one, from the last place to the first; 0 keeps it."""
    shared_prefix: bool = True
    """Integrate the steps before the window once for the whole group, from one initial noise."""


class FinalSampleMethod(MethodConfig):
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
        if self.alpha_edit == 0:
            return (
                "algorithm.alpha_edit: expected a strength above 0, got 0; without noise on the way the candidates "
                "of a group would all be the same"
            )
        return MethodConfig.fault(self, steps, group_size)

    @property
    def rolls_out_mean(self) -> bool:
        return self.behaviour == "ema"

    def query_count(self, steps: int, group_size: int) -> int:
        return self.samples * group_size

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        return 1, 1


class DiffusionNftConfig(FinalSampleMethod):
    """DiffusionNFT (arXiv 2509.16117): the velocity is moved to the good samples and away from the bad ones."""

    type: Literal["diffusion_nft"] = "diffusion_nft"
    """Which method."""
    beta: float = Field(1.0, gt=0)
    """How far the implicit positive and negative policies are from the behaviour policy."""
    behaviour: Literal["current", "ema"] = "ema"
    """Whose rollouts are trained on: the present weights, or their running mean."""
    preservation: PreservationConfig = PreservationConfig()


class FinalSampleConfig(FinalSampleMethod):
    """Policy gradients on the final samples: ELBO policy gradients and advantage-weighted matching."""

    type: Literal["final_sample"] = "final_sample"
    """Which method."""
    form: Literal["epg", "pepg", "awm"] = "pepg"
    """epg and pepg: ELBO policy gradients, the latter with the step's own change taken off the advantage; awm: clipped
    ratios of matching losses (arXiv 2509.25050)."""
    clip: float = Field(1e-3, gt=0, lt=1)
    """Clip range of the ratio of `awm`."""


class CustomConfig(AnchorMethod, LikelihoodMethod, FinalSampleMethod):
    """A method of your own, a class at a dotted path (docs/methods.md); keys of the families it does not learn from are
    ignored."""

    needs_final: ClassVar[bool] = True

    type: Literal["custom"] = "custom"
    """Which method."""
    method: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The class, as package.module:Class; it is given this section."""
    learns_from: LearnsFrom = "anchors"
    """anchors: of a deterministic rollout; transitions: noisy steps; final: the final samples alone."""
    settings: dict[str, float | int | bool | str] = Field({})
    """What the class reads beside the keys here."""
    alpha_edit: Strength = 0.8
    """Perturbation of the initial noise inside the edit mask; 0 = the same noise for all candidates, 1 = noise of their
    own."""
    alpha_base: Strength = 0.05
    """Perturbation outside it."""

    @property
    def family(self) -> LearnsFrom:
        return self.learns_from

    @property
    def rolls_out_mean(self) -> bool:
        return self.behaviour == "ema"

    def fault(self, steps: int, group_size: int) -> str | None:
        found: str | None = FAMILIES[self.learns_from].fault(self, steps, group_size)
        return found

    def query_count(self, steps: int, group_size: int) -> int:
        count: int = FAMILIES[self.learns_from].query_count(self, steps, group_size)
        return count

    def kept(self, steps: int, group_size: int) -> tuple[int, int]:
        found: tuple[int, int] = FAMILIES[self.learns_from].kept(self, steps, group_size)
        return found


FAMILIES: Mapping[LearnsFrom, Any] = {
    "anchors": AnchorMethod,
    "transitions": LikelihoodMethod,
    "final": FinalSampleMethod,
}


AlgorithmConfig = Annotated[
    RcGrpoConfig
    | NeighborGrpoConfig
    | LocusConfig
    | FlowGrpoConfig
    | DanceGrpoConfig
    | MixGrpoConfig
    | DiffusionNftConfig
    | FinalSampleConfig
    | CustomConfig,
    Field(discriminator="type"),
]
