"""Every setting of a run, with its default, range and meaning.

The tree is closed (`extra="forbid"`): an unknown key is an error that suggests the nearest known one.
Environment variables hold only secrets and paths. See `configs/load.py` for YAML and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from configs.algorithms import AlgorithmConfig, LocusConfig
from configs.components import OF_THE_BENCHMARK, RANK
from configs.method_families import RolloutMethod
from configs.paths import PathText
from configs.reward_regions import named_regions, region_fault
from configs.rewards import RedisConfig, RewardsConfig, ServiceConfig
from configs.section import Section


class LoraConfig(Section):
    """The trained adapter."""

    targets: Literal["attention", "attention_mlp"] = "attention_mlp"
    """Which linear maps of the transformer it adapts: the projections of its attention (RC-GRPO-Editing), or those and
    the MLPs of the image tokens."""
    rank: int = Field(32, ge=1)
    """Rank of every adapter pair."""
    alpha: float = Field(64.0, gt=0)
    """LoRA scale numerator; the update is scaled by alpha / rank."""
    start: PathText | None = None
    """Folder of an exported adapter to begin with, such as `runs/sft/adapter`, of the same rank and targets; null: a
    fresh one, which changes nothing yet."""


class EditorConfig(Section):
    """The editor that is trained."""

    path: PathText = "shapes"
    """A diffusers folder (FLUX.1-Kontext-dev or any FluxKontextPipeline), or `shapes` for the embedded base."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen weights and of matrix products; latents, distances and advantages are always float32."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: the GPU if there is one."""
    guidance: float = Field(2.5, ge=0)
    """Embedded guidance of guidance-distilled editors (ignored by editors without it)."""
    max_text_tokens: int | None = Field(None, ge=1)
    """Text length in tokens; None means 12 for the embedded base and 512 otherwise."""
    micro_batch: int | None = Field(None, ge=1)
    """Largest batch of one transformer call; None runs a whole group at once."""
    gradient_checkpointing: bool = False
    """Trade compute for memory in the learner."""
    lora: LoraConfig = LoraConfig()


class ShapesData(Section):
    """The embedded benchmark: procedural scenes with exact masks and ground truth."""

    type: Literal["shapes"] = "shapes"
    """Which kind of data; the other kind is `manifest`."""
    seed: int = 0
    """Seed of the scenes."""
    train_tasks: int = Field(4096, ge=1)
    """Number of training tasks, visited in seeded random order."""
    held_out_tasks: int = Field(256, ge=0)
    """Number of tasks of `held_out_split` on which the base and the result are evaluated."""
    held_out_split: Literal["test", "validation"] = "test"
    """The evaluation split; choose settings on `validation` to keep `test` an unbiased estimate."""
    photo_folder: PathText | None = None
    """Take backgrounds from crops of the images in this folder instead of the procedural textures."""
    mask_margin: int = Field(0, ge=0, le=32)
    """Pixels by which edit masks are grown beyond every pixel that an edit touches, as masks that users draw are."""


class ManifestData(Section):
    """The user's own images: a JSONL manifest of source, mask and instruction."""

    type: Literal["manifest"] = "manifest"
    """Which kind of data; the other kind is `shapes`."""
    path: PathText
    """The training manifest."""
    held_out_path: PathText | None = None
    """A separate manifest for evaluation; None holds out the last `held_out_fraction` of the first."""
    held_out_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the manifest to hold out without a second one (at least one task if above zero); all tasks of an image
    are on the same side of the split."""
    mask_polarity: Literal["edit_is_white", "edit_is_black"] | None = None
    """The meaning of white in mask images; None reads it from the manifest's header."""
    max_faulty_fraction: float = Field(0.05, ge=0, le=1)
    """Stop before the run if more than this share of the lines is faulty."""
    follow_links: bool = False
    """Follow symbolic links out of the manifest's folder (a hub cache, DVC, git-annex); for trusted links only."""
    resolution: int | None = Field(512, ge=16)
    """Images are resized to about resolution² pixels, keeping their aspect ratio; None keeps their size."""


class SamplerConfig(Section):
    """The sampler of rollouts."""

    group_size: int = Field(8, ge=2)
    """Candidates per task, the unperturbed reference included (G)."""
    steps: int = Field(4, ge=1)
    """Solver steps of a rollout (T)."""
    solver: Literal["euler", "dpm2m"] = "euler"
    """First-order Euler, or second-order multistep DPM-Solver++(2M)."""
    evaluation_steps: int = Field(4, ge=1)
    """Solver steps of held-out evaluations and galleries."""


TokenMask = Literal["half", "any", "soft"]


class TokenMasksConfig(Section):
    """Which latent tokens count as editable, per use: those that the edit mask touches (`any`: no part of a mask is
    lost, and no edited pixel is pulled back to the source), those at least half covered (`half`: thin parts have no
    token), or each in proportion to its coverage (`soft`)."""

    noise: TokenMask = "any"
    """Where candidates are perturbed."""
    distance: TokenMask = "any"
    """The edit region of the surrogate's metric."""
    preservation: TokenMask = "any"
    """The edit region of the background term and the velocity anchor."""
    attention: TokenMask = "any"
    """The mask of attention concentration (ACD)."""


DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW on the adapter."""

    lr: float = Field(1.4e-3, gt=0)
    """Peak learning rate; null, or not stated: the method's own."""
    warmup_steps: int = Field(3, ge=0)
    """Steps of linear warm-up."""
    final_lr_fraction: float = Field(1.0, ge=0, le=1)
    """Linear decay to this share of the peak at the last step."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and the squared gradient."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The gradient is clipped to this norm."""
    ema: float | None = Field(0.9, gt=0, lt=1)
    """Decay per step of a running mean of the weights, which held-out measurements, the gallery of tasks and the
    exported adapter have in place of them; rollouts do not. At first smaller: (1 + v) / (10 + v) after step v. null: no
    mean."""


class LearnerConfig(Section):
    """The training loop."""

    steps: int = Field(90, ge=1)
    """Optimizer steps."""
    groups_per_step: int = Field(12, ge=1)
    """Trajectory groups per optimizer step."""
    updates_per_step: int = Field(1, ge=1)
    """Updates on the same groups; above one the ratio departs from 1 and the clip takes effect."""
    num_workers: int = Field(1, ge=1, le=64)
    """Data-parallel learner processes, on one node, that share the groups of a step; cluster.mode ray."""
    optimizer: OptimizerConfig = OptimizerConfig()


MAX_ROLLOUT_WORKERS = 1024
"""A larger value is most likely a typo: every worker holds a copy of the editor."""


class ClusterConfig(Section):
    """Where the work runs."""

    mode: Literal["ray", "inline"] = "ray"
    """ray: rollout workers, reward pool and learner are actors; inline: the same loop in a single process."""
    address: str | None = None
    """A running Ray cluster (`auto` or host:port); None means the enclosing Ray job's cluster, or else a local one."""
    rollout_workers: int = Field(2, ge=1, le=MAX_ROLLOUT_WORKERS)
    """Rollout workers at the start; `python -m cluster.scale RUN --rollout-workers N` changes it during a run."""
    min_rollout_workers: int = Field(1, ge=1)
    """The run stops when fewer worker slots than this are left, the others having been given up (max_restarts)."""
    max_restarts: int = Field(5, ge=0)
    """Restart policy: consecutive restarts of a rollout worker without a finished group before its slot is given up."""
    groups_in_flight: int = Field(2, ge=1)
    """Leases that one worker may hold: one computing, the rest queued."""
    staleness: int = Field(0, ge=0)
    """Maximum age of a group in policy versions when it is trained on; 0 is on-policy, in order and reproducible."""
    publish_every: int = Field(1, ge=1)
    """Optimizer steps between two publications of the weights."""
    group_timeout: float = Field(600.0, gt=0)
    """Timeout of a group in seconds; beyond it the group counts as lost and its worker is replaced."""
    max_attempts: int = Field(5, ge=1)
    """How often the task of a lost or rejected group is requeued before the run stops."""
    gpus_per_rollout_worker: float = Field(0.0, ge=0)
    """GPUs (or a share of one) that Ray reserves for each rollout worker."""
    gpus_for_learner: float = Field(0.0, ge=0)
    """GPUs (or a share of one) that Ray reserves for each learner process."""
    threads_per_process: int = Field(1, ge=1)
    """CPU threads per process; more than one slows down small models when processes share the cores."""


class CheckpointConfig(Section):
    """Checkpoints of the complete training state."""

    every: int = Field(25, ge=1)
    """Optimizer steps between two checkpoints (the last step is always saved)."""
    keep: int = Field(2, ge=2)
    """How many checkpoints are kept."""


class ReportConfig(Section):
    """Metrics, galleries and evaluations."""

    tracker: Literal["none", "tensorboard"] = "none"
    """A tracker that also receives the metrics."""
    gallery_tasks: int = Field(8, ge=0)
    """Held-out tasks shown in the gallery, base against trained."""
    gallery_groups: int = Field(4, ge=0)
    """Training groups shown with all their candidates."""
    evaluate_every: int = Field(0, ge=0)
    """Optimizer steps between held-out evaluations during training; 0 evaluates only before and after."""


DEFAULT_TYPE = LocusConfig().type
DEFAULT_LR: Mapping[object, float] = {
    one.model_fields["type"].default: one.default_lr for one in get_args(get_args(AlgorithmConfig)[0])
}
"""The learning rate of each method, where none is stated."""


def _method_type(values: Mapping[str, Any]) -> str | None:
    """`algorithm.type` of values that are not validated yet; None where it is no word."""
    method = values.get("algorithm", {})
    kind = method.get("type", DEFAULT_TYPE) if isinstance(method, Mapping) else getattr(method, "type", None)
    return kind if isinstance(kind, str) else None


class RunConfig(Section):
    """The whole configuration of one run."""

    name: str = Field("quickstart", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run and of its folder."""
    folder: PathText = "runs"
    """Parent folder of all runs."""
    seed: int = Field(0, ge=0)
    """Seed of all randomness in the run."""
    editor: EditorConfig = EditorConfig()
    data: Annotated[ShapesData | ManifestData, Field(discriminator="type")] = ShapesData()
    algorithm: AlgorithmConfig = LocusConfig()
    sampler: SamplerConfig = SamplerConfig()
    token_masks: TokenMasksConfig = TokenMasksConfig()
    rewards: RewardsConfig = RewardsConfig()
    redis: RedisConfig = RedisConfig()
    service: ServiceConfig = ServiceConfig()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="before")
    @classmethod
    def _lr_of_the_method(cls, values: Any) -> Any:
        """Where no learning rate is stated, that of the method."""
        if not isinstance(values, Mapping):
            return values
        kind, learner = _method_type(values), values.get("learner", {})
        optimizer = learner.get("optimizer", {}) if isinstance(learner, Mapping) else None
        # What is no section, or of no method, is refused when its fields are validated.
        if not isinstance(optimizer, Mapping) or optimizer.get("lr") is not None or kind not in DEFAULT_LR:
            return values
        return {**values, "learner": {**learner, "optimizer": {**optimizer, "lr": DEFAULT_LR[kind]}}}

    @property
    def rollout_method(self) -> RolloutMethod:
        """`algorithm`, of a method that learns from rollouts.

        Raises:
            TypeError: for one that learns from given images.
        """
        if not isinstance(self.algorithm, RolloutMethod):
            raise TypeError(f"expected a method that learns from rollouts, got algorithm.type {self.algorithm.type}")
        return self.algorithm

    @property
    def group_size(self) -> int:
        """Candidates of a group: `sampler.group_size`, or as many as a method of given images takes."""
        return self.algorithm.candidates(self.sampler.group_size)

    @property
    def own_modules(self) -> tuple[str, ...]:
        """The modules of the user's own code that the configuration names: scorers and a method."""
        paths = (*self.rewards.scorers.values(), *self.algorithm.own_code)
        return tuple(sorted({path.partition(":")[0] for path in paths}))

    @property
    def group_by_group(self) -> bool:
        """Whether a group may leave as soon as its gradient is taken: nothing needs another group of its step."""
        alone = self.rewards.normalisation == "none" and not self.algorithm.compares_groups
        return alone and self.learner.updates_per_step == 1

    @property
    def min_valid(self) -> int:
        """Scored candidates that a group needs: `rewards.min_valid`, or all where it is smaller than that."""
        return min(self.rewards.min_valid, self.group_size)

    @model_validator(mode="before")
    @classmethod
    def _rank_by_default(cls, values: Any) -> Any:
        """The only component of a method that learns from given images."""
        if not isinstance(values, Mapping):
            return values
        kind, rewards = _method_type(values), values.get("rewards", {})
        if kind in ("sft", "dpo") and isinstance(rewards, Mapping) and "weights" not in rewards:
            return {**values, "rewards": {**rewards, "weights": {RANK: 1.0}}}
        return values

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        if (fault := self.algorithm.fault(self.sampler.steps, self.sampler.group_size)) is not None:
            raise ValueError(fault)
        if self.editor.micro_batch is not None and self.editor.micro_batch < self.algorithm.least_batch:
            raise ValueError(
                f"editor.micro_batch: expected at least {self.algorithm.least_batch} with algorithm.type "
                f"{self.algorithm.type} (the images of a pair go through the transformer together), got "
                f"{self.editor.micro_batch}"
            )
        self._rewards_fit_the_method()
        if (fault := region_fault(self.algorithm.by_region, self.rewards)) is not None:
            raise ValueError(fault)
        if self.learner.num_workers > 1 and self.cluster.mode == "inline":
            raise ValueError(
                f"learner.num_workers: expected 1 with cluster.mode inline (one process), "
                f"got {self.learner.num_workers}; set cluster.mode ray for more"
            )
        if self.learner.num_workers > self.learner.groups_per_step:
            raise ValueError(
                f"learner.num_workers: expected at most learner.groups_per_step = "
                f"{self.learner.groups_per_step} (a learner process takes whole groups), "
                f"got {self.learner.num_workers}"
            )
        if self.rewards.min_valid > self.sampler.group_size:
            raise ValueError(
                f"rewards.min_valid: expected at most sampler.group_size = "
                f"{self.sampler.group_size}, got {self.rewards.min_valid}"
            )
        if self.cluster.publish_every > self.cluster.staleness + 1:
            raise ValueError(
                f"cluster.publish_every: weights published every {self.cluster.publish_every} steps make "
                f"groups up to {self.cluster.publish_every - 1} versions old, but cluster.staleness is "
                f"{self.cluster.staleness}; raise cluster.staleness or publish more often"
            )
        if self.cluster.min_rollout_workers > self.cluster.rollout_workers:
            raise ValueError(
                "cluster.min_rollout_workers: expected at most cluster.rollout_workers = "
                f"{self.cluster.rollout_workers}, got {self.cluster.min_rollout_workers}"
            )
        for name in self.rewards.judge.configured:
            judge = getattr(self.rewards.judge, name)
            if self.redis.mode == "url" and not judge.revision:
                raise ValueError(
                    f"rewards.judge.{name}.revision: expected an identifier of this model's weights (a date or a "
                    "commit), since redis.mode is url: a shared cache would mix the scores of different weights"
                )
        own = named_regions(self.algorithm, self.rewards)
        if self.data.type == "shapes" and own:
            raise ValueError(
                f"rewards.regions: expected edit or background, as tasks of the embedded benchmark have no regions of "
                f"their own, got {own[0]!r}; that needs data.type manifest"
            )
        truth = [name for name in OF_THE_BENCHMARK if self.rewards.weights.get(name)]
        if self.data.type == "manifest" and truth:
            raise ValueError(
                f"rewards.weights: {truth[0]} needs the ground truth of the embedded benchmark; "
                "with data.type manifest, use background_psnr, acd, or edit_psnr if lines have a target"
            )
        return self

    def _rewards_fit_the_method(self) -> None:
        asked, kind = sorted(name for name, weight in self.rewards.weights.items() if weight), self.algorithm.type
        given = self.algorithm.family == "data"
        if given and asked != [RANK]:
            raise ValueError(
                f"rewards.weights: expected {RANK} alone with algorithm.type {kind}, which learns from given images "
                f"and asks for no reward, got {', '.join(asked)}; remove them, or add --rewards.weights '{{{RANK}: 1}}'"
            )
        if not given and RANK in asked:
            raise ValueError(
                f"rewards.weights: {RANK} is the place of a given image in its ranking, for algorithm.type sft or dpo; "
                f"{kind} learns from rollouts, so that a reward must judge them; remove {RANK}"
            )
