"""Settings of the methods: `algorithm.type` chooses one, and every key below it has that method's own default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from configs.data_methods import DpoConfig, SftConfig
from configs.method_families import (
    AdvantageConfig,
    AnchorMethod,
    CreditConfig,
    FinalSampleMethod,
    LearnsFrom,
    LikelihoodMethod,
    PreservationConfig,
    RegionMethod,
    Strength,
    SurrogateMethod,
)


class RcGrpoConfig(SurrogateMethod):
    """RC-GRPO-Editing (arXiv 2604.09386): the masked surrogate policy (Eq. 13-15) and its clipped objective (Eq. 5)."""

    type: Literal["rc_grpo"] = "rc_grpo"
    """Which method."""
    surrogate: Literal["joint", "factored"] = "joint"
    """joint: one softmax over the distances of both regions together (Eq. 14); factored: one for each region."""
    preservation: PreservationConfig = PreservationConfig(background_weight=0.2)

    @property
    def factored(self) -> bool:
        return self.surrogate == "factored"


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


class EditGrpoConfig(SurrogateMethod, RegionMethod):
    """Edit-GRPO (arXiv 2605.16951) in our reading: the surrogate of RC-GRPO-Editing factored over regions, with rewards
    and advantages of their own for the edit and for what must not change."""

    type: Literal["edit_grpo"] = "edit_grpo"
    """Which method."""
    credit: CreditConfig = CreditConfig(per="region", ring=1)

    @property
    def factored(self) -> bool:
        return True


class LocusConfig(AnchorMethod, RegionMethod):
    """Locus: the end-point direction of the group, and the source-anchored background."""

    default_lr: ClassVar[float] = 1.4e-3  # at the constant rate and the running mean of the default
    needs_final: ClassVar[bool] = True

    type: Literal["locus"] = "locus"
    """Which method."""
    trained_steps: tuple[int, ...] = (0, 1, 2, 3)
    """Steps at whose states the velocity is pushed: all of four."""
    gain: float = Field(0.5, gt=0)
    """Size of the step from the old velocities to those that a second update, or a group of older weights, is pulled
    to, in units of the direction; the first update does not depend on it."""
    preservation: PreservationConfig = PreservationConfig(background_weight=0.5, background_error="velocity")


class FlowGrpoConfig(LikelihoodMethod):
    """Flow-GRPO (arXiv 2505.05470): clipped likelihood ratios of an SDE, advantages by the step's spread."""

    default_lr: ClassVar[float] = 1e-3  # that at which its released code was measured on the embedded benchmark

    type: Literal["flow_grpo"] = "flow_grpo"
    """Which method."""
    advantage: AdvantageConfig = AdvantageConfig(kind="global_std")


class SpatialFlowGrpoConfig(LikelihoodMethod, RegionMethod):
    """SpatialFlow-GRPO (arXiv 2606.26872) in our reading: Flow-GRPO with rewards, advantages and likelihood ratios of
    their own for every region."""

    default_lr: ClassVar[float] = FlowGrpoConfig.default_lr  # what it is built on

    type: Literal["spatialflow_grpo"] = "spatialflow_grpo"
    """Which method."""
    credit: CreditConfig = CreditConfig(per="region")
    weighting: Literal["area", "uniform"] = "area"
    """area: a region counts by its share of the tokens; uniform: all that have tokens count alike."""


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


class DiffusionNftConfig(FinalSampleMethod):
    """DiffusionNFT (arXiv 2509.16117): the velocity is moved to the good samples and away from the bad ones."""

    type: Literal["diffusion_nft"] = "diffusion_nft"
    """Which method."""
    beta: float = Field(1.0, gt=0)
    """How far the implicit positive and negative policies are from the behaviour policy."""
    behaviour: Literal["current", "ema"] = "ema"
    """Whose rollouts are trained on: the present weights, or their running mean."""
    preservation: PreservationConfig = PreservationConfig()


class CoCoEditConfig(FinalSampleMethod):
    """CoCoEdit (arXiv 2602.14068): DiffusionNFT, and a hinge for the background and one for the edit region."""

    type: Literal["cocoedit"] = "cocoedit"
    """Which method."""
    beta: float = Field(1.0, gt=0)
    """How far the implicit positive and negative policies are from the behaviour policy."""
    behaviour: Literal["current", "ema"] = "ema"
    """Whose rollouts are trained on: the present weights, or their running mean."""
    background_hinge: float = Field(0.02, ge=0)
    """Weight of the hinge that keeps the positive policy's background; .02 for FLUX.1-Kontext and .8 for
    Qwen-Image-Edit in released code."""
    edit_hinge: float = Field(0.02, ge=0)
    """Weight of the hinge that changes the negative policy's edit region; .02 and .5 there."""
    tau_positive: float = Field(1e-3, ge=0)
    """Mean squared difference, in squared latent units, up to which the background costs nothing."""
    tau_negative: float = Field(3e-2, ge=0)
    """Mean squared difference, in squared latent units, from which the edit region counts as changed."""
    erosion: int = Field(1, ge=0)
    """Tokens by which both regions are eroded; released code has 2 latents, which are 1 packed token."""
    ring_weight: float = Field(0.2, ge=0, le=1)
    """How much the ring that erosion leaves counts in either region."""
    positive_reference: Literal["source", "sample"] = "source"
    """What the positive policy's background is compared with: the source (the paper), or the rolled-out sample
    (released code)."""
    use_reg_xsrc: bool = True
    """Compare the negative policy's edit region with the source, as released code does by this name; off: with the
    rolled-out sample."""
    advantage: AdvantageConfig = AdvantageConfig(kind="global_std")


class FinalSampleConfig(FinalSampleMethod):
    """Policy gradients on the final samples: ELBO policy gradients and advantage-weighted matching."""

    type: Literal["final_sample"] = "final_sample"
    """Which method."""
    form: Literal["epg", "pepg", "awm"] = "pepg"
    """epg and pepg: ELBO policy gradients, the latter with the step's own change taken off the advantage; awm: clipped
    ratios of matching losses (arXiv 2509.25050)."""
    clip: float = Field(1e-3, gt=0, lt=1)
    """Clip range of the ratio of `awm`."""


class CustomConfig(AnchorMethod, LikelihoodMethod, FinalSampleMethod, RegionMethod):
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
    def own_code(self) -> tuple[str, ...]:
        return (self.method,)

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
    | EditGrpoConfig
    | LocusConfig
    | FlowGrpoConfig
    | SpatialFlowGrpoConfig
    | DanceGrpoConfig
    | MixGrpoConfig
    | DiffusionNftConfig
    | CoCoEditConfig
    | FinalSampleConfig
    | SftConfig
    | DpoConfig
    | CustomConfig,
    Field(discriminator="type"),
]
