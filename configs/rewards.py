"""Settings of the reward pool: components and their weights, judges, the score cache, the HTTP service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs.addresses import check_redis_address
from configs.components import BUILT_IN, COMPONENT_KINDS, COMPONENT_RANGES, EMBEDDINGS, NOISE_FLOORS, ComponentRange
from configs.judges import JUDGED, JudgeConfig
from configs.paths import PathText
from configs.section import Section

LARGEST_WEIGHT = 1e6
"""Largest magnitude of a weight, so that weighted scores (at most 1e9 each) and their squares stay finite."""


class EmbeddingModelConfig(Section):
    """An embedding model in transformers format, read from the local disk only."""

    path: PathText = ""
    """Folder with config.json, preprocessor_config.json, safetensors weights and, for text, the tokenizer; empty for
    none."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: the GPU if the process has one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and matrix products; embeddings are compared in float32."""
    batch_size: int = Field(32, ge=1)
    """Maximum number of images per model call."""


class EmbeddingConfig(Section):
    """Embedding models that score without a judge; a model without a path is not loaded."""

    clip: EmbeddingModelConfig = EmbeddingModelConfig()
    """CLIP or SigLIP, shared by clip_text and clip_direction."""
    dino: EmbeddingModelConfig = EmbeddingModelConfig()
    """DINOv2 or DINOv3, for dino_background."""
    gpus: float = Field(0.0, ge=0)
    """GPUs (or a share of one) that Ray reserves for the reward pool, which runs these models; cluster.mode ray."""

    @property
    def configured(self) -> tuple[str, ...]:
        """The components whose model has a path."""
        return tuple(name for name, model in EMBEDDINGS.items() if getattr(self, model).path)


class RedisConfig(Section):
    """The cache of judge scores; a run can always continue without it."""

    mode: Literal["embedded", "url", "off"] = "embedded"
    """embedded: a server owned by the run, started only if there is a judge; url: a shared server; off: no cache."""
    url: str = ""
    """A shared server, redis://host:port/db; its password comes from LOCUS_REDIS_PASSWORD."""
    max_megabytes: int = Field(256, ge=8)
    """Size at which the embedded server evicts the least recently used entries."""
    timeout: float = Field(0.5, gt=0)
    """Timeout of a cache request in seconds; scoring continues without the cache."""

    @model_validator(mode="after")
    def _url_fits(self) -> RedisConfig:
        if (self.mode == "url") != bool(self.url):
            raise ValueError(
                f"redis.url: expected an address exactly when redis.mode is url, got mode {self.mode} and "
                f"{'no address' if not self.url else 'an address'}"
            )
        if self.url:
            try:
                check_redis_address(self.url)
            except ValueError as error:
                raise ValueError(f"redis.url: {error}") from None
        return self


class ServiceConfig(Section):
    """The reward pool as an HTTP service (`python -m rewards.service`)."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback LOCUS_SERVICE_TOKEN (32 characters or more) must be set."""
    port: int = Field(8460, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    max_body_megabytes: int = Field(32, ge=1)
    """Largest request body."""
    max_images: int = Field(16, ge=1)
    """Maximum number of images in a request, sources included."""
    max_megapixels: float = Field(16.0, gt=0)
    """Largest image, checked in its header before decoding."""
    max_total_megapixels: float = Field(64.0, gt=0)
    """All images of one request, and of all requests being scored at once (the others wait). Requests of at most a
    sixteenth of it share a reserved sixteenth, so that they do not wait for larger ones."""
    max_prompt: int = Field(8192, ge=1)
    """Longest instruction in characters."""
    queue: int = Field(64, ge=1)
    """Maximum number of requests running or waiting; further ones get 429."""
    deadline: float = Field(300.0, gt=0)
    """Deadline of one request in seconds."""


class RewardsConfig(Section):
    """How a candidate is scored, and how scores are combined."""

    weights: dict[str, float] = Field({"edit_score": 1.0, "edit_psnr": 0.05, "background_psnr": 0.1})
    """Weight per component, -1e6 to 1e6: what the task's truth, target and source tell, acd, judges, embedding models,
    or `scorers` (docs/rewards.md). By default a judge, or else clip_text, replaces edit_score and edit_psnr."""
    scorers: dict[str, str] = Field({})
    """Your own scorers: name to dotted path, such as {"sharpness": "my_package.scorers:sharpness"}. Each needs a
    weight; a scorer with a weight of 0 is not called."""
    scorer_kinds: dict[str, Literal["edit", "preservation", "focus"]] = Field({})
    """What each of your own scorers rewards: edit (the default), preservation (that the rest is unchanged) or focus
    (where the text attends). A run needs a reward for the edit, or something that preserves it."""
    scorer_ranges: dict[str, tuple[float, float]] = Field({})
    """Smallest and largest value of your own scorers, such as {"sharpness": [0, 0.5]}; composition gated needs one for
    each, and values beyond it count as its end."""
    scorer_deadline: float = Field(240.0, gt=0)
    """Deadline of your own scorers for one group in seconds; beyond it the scorer's process is killed and replaced, and
    the group's candidates have no score."""
    scorer_processes: int = Field(1, ge=1)
    """Processes per scorer of your own, each with its own copy of what the scorer loads: the number of groups scored
    concurrently."""
    regions: dict[str, str] = Field({})
    """The region that a component rewards, where credit is given per region (`algorithm.credit.per`): edit, background,
    or the name of a region of the task. Without: background for what rewards preservation, edit for all else."""
    floors: dict[str, float] = Field({})
    """Noise floor per component, in its own unit: a group with a standard deviation at or below it learns nothing from
    that component, so that noise is not scaled up to a reward, and nothing at all if this holds for every reward for
    the edit. The default of a component is just above its noise."""
    judge: JudgeConfig = JudgeConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    normalisation: Literal["none", "pooled", "minibatch"] = "none"
    """Scaling of a component before weighting: none (raw units), pooled (by its within-group standard deviation
    pooled over the step's groups; the default if a judge or CLIP is configured), minibatch (z-score over all
    candidates of the step, as the paper states)."""
    composition: Literal["sum", "gated"] = "sum"
    """sum: weight times score, summed; gated: E (w1 + w2 C) / (w1 + w2) (arXiv 2603.12247), where an image left alone
    is worth nothing: E and C are weighted means of the rewards for edit and preservation, scaled to 0..1 by their
    ranges."""
    w1: float = Field(0.6, gt=0, le=LARGEST_WEIGHT)
    """Weight of the edit by itself (composition gated)."""
    w2: float = Field(0.4, ge=0, le=LARGEST_WEIGHT)
    """Weight of the edit times preservation (composition gated)."""
    acd_blocks: int = Field(2, ge=1)
    """Number of last transformer blocks that attention concentration is averaged over (paper: 10)."""
    min_valid: int = Field(2, ge=2)
    """A group with fewer fully scored candidates is rejected and its task requeued."""
    min_std: float = Field(0.0, ge=0)
    """Groups whose combined reward varies by less than this get no advantages: population standard deviation, after
    normalisation and weighting (pooled: in units of the step's own spread; `floors` is in a judge's unit). 0 drops only
    zero-variance groups."""
    min_range: float = Field(0.0, ge=0)
    """Groups whose largest and smallest combined reward differ by less than this get no advantages (Qwen-Image-2.0-RL);
    the unit is that of `min_std`."""
    max_mean: float | None = None
    """Groups whose mean combined reward is above this get no advantages, as they have little left to learn (Edit-R1:
    0.9 of a judge's 0..1); null: no bound. Without normalisation."""

    @property
    def kinds(self) -> Mapping[str, Literal["edit", "preservation", "focus", "given"]]:
        """What each component rewards; a user's scorer rewards the edit unless `scorer_kinds` says otherwise."""
        own: dict[str, Literal["edit", "preservation", "focus", "given"]] = dict.fromkeys(self.scorers, "edit")
        return {**COMPONENT_KINDS, **own, **self.scorer_kinds}

    @property
    def ranges(self) -> Mapping[str, ComponentRange]:
        """The range of each component that has one."""
        own = {name: ComponentRange(low, high, "the scorer's own") for name, (low, high) in self.scorer_ranges.items()}
        return {**COMPONENT_RANGES, **own}

    @property
    def noise_floors(self) -> Mapping[str, float]:
        """`floors`, completed with the defaults of the components that it does not name."""
        return {**NOISE_FLOORS, **self.floors}

    @model_validator(mode="before")
    @classmethod
    def _judge_by_default(cls, values: Any) -> Any:
        """Default normalisation and weights if a judge or CLIP is configured: scored by that model, and pooled unless
        the composition is gated."""
        if not isinstance(values, Mapping) or not {"judge", "embedding"} & values.keys():
            return values
        try:
            judges = JudgeConfig.model_validate(values.get("judge", {})).configured
            embeddings = EmbeddingConfig.model_validate(values.get("embedding", {})).configured
        except ValidationError:  # reported with its path when the field itself is validated
            return values
        edit = judges or tuple(name for name in embeddings if name == "clip_text")
        if not edit:
            return values
        weights = {**dict.fromkeys(edit, 1.0), "background_psnr": 0.25}
        if "dino_background" in embeddings:
            weights["dino_background"] = 0.25
        # Pooled, weights express relative importance, whatever the component's scale; gated, they do so by themselves.
        gated = values.get("composition") == "gated"
        return {"normalisation": "none" if gated else "pooled", "weights": weights, **values}

    @model_validator(mode="after")
    def _components_exist(self) -> RewardsConfig:
        taken = sorted(set(self.scorers) & {*BUILT_IN, *JUDGED, *EMBEDDINGS})
        if taken:
            raise ValueError(f"rewards.scorers: {taken[0]!r} is the name of a component of Locus; choose another")
        for name, dotted in self.scorers.items():
            module, _, attribute = dotted.partition(":")
            if not all(part.isidentifier() for path in (module, attribute) for part in path.split(".")):
                raise ValueError(f"rewards.scorers.{name}: expected package.module:function, got {dotted!r}")
        for key in ("scorer_kinds", "scorer_ranges"):
            stray = sorted(set(getattr(self, key)) - set(self.scorers))
            if stray:
                raise ValueError(
                    f"rewards.{key}: expected names from rewards.scorers "
                    f"({', '.join(sorted(self.scorers)) or 'there are none'}), got {stray[0]!r}"
                )
        for name, (low, high) in self.scorer_ranges.items():
            if not low < high:
                raise ValueError(
                    f"rewards.scorer_ranges.{name}: expected two numbers, the smaller first, got [{low:g}, {high:g}]"
                )
        known = {*BUILT_IN, *JUDGED, *EMBEDDINGS, *self.scorers}
        astray = sorted(name for name in self.regions if not self.weights.get(name))
        if astray:
            raise ValueError(
                f"rewards.regions: expected components with a weight other than 0, got {astray[0]!r}; add "
                f"--rewards.weights.{astray[0]} 1 or remove it"
            )
        unknown = sorted(set(self.floors) - known)
        if unknown:
            raise ValueError(f"rewards.floors: unknown component {unknown[0]!r}; expected some of {sorted(known)}")
        bad = next((name for name, floor in self.floors.items() if not 0 <= floor < float("inf")), None)
        if bad is not None:
            raise ValueError(f"rewards.floors.{bad}: expected a number of at least 0, got {self.floors[bad]}")
        unknown = sorted(set(self.weights) - known)
        if unknown:
            raise ValueError(f"rewards.weights: unknown component {unknown[0]!r}; expected some of {sorted(known)}")
        large = next((name for name, weight in self.weights.items() if abs(weight) > LARGEST_WEIGHT), None)
        if large is not None:
            raise ValueError(
                f"rewards.weights.{large}: expected a number from {-LARGEST_WEIGHT:g} to "
                f"{LARGEST_WEIGHT:g}, got {self.weights[large]:g}; only the ratios of weights matter where "
                "scores are normalised"
            )
        unweighted = next((name for name in self.scorers if name not in self.weights), None)
        if unweighted is not None:
            raise ValueError(
                f"rewards.scorers.{unweighted}: expected a weight for it in rewards.weights, got none; "
                f"without one it is never called. Add --rewards.weights.{unweighted} 1, or 0 to leave it "
                "unused"
            )
        weighted = {name for name, weight in self.weights.items() if weight != 0}
        if not weighted:
            raise ValueError("rewards.weights: expected at least one component with a weight other than 0")
        for name in sorted(weighted & JUDGED.keys()):
            if JUDGED[name] not in self.judge.configured:
                raise ValueError(
                    f"rewards.weights: {name} has a weight, but rewards.judge.{JUDGED[name]} has no urls and no "
                    "serve.replicas"
                )
        for judge in self.judge.configured:
            served = [name for name, of in JUDGED.items() if of == judge]
            if not weighted.intersection(served):
                raise ValueError(
                    f"rewards.judge.{judge} is configured, but rewards.weights gives {' or '.join(served)} no weight; "
                    "add one"
                )
        for name in sorted(weighted & EMBEDDINGS.keys() - set(self.embedding.configured)):
            raise ValueError(
                f"rewards.weights: {name} has a weight, but rewards.embedding.{EMBEDDINGS[name]}.path is "
                "empty; set it to the folder of the model's weights"
            )
        for model in sorted({EMBEDDINGS[name] for name in self.embedding.configured}):
            served = [name for name, of in EMBEDDINGS.items() if of == model]
            if not weighted.intersection(served):
                raise ValueError(
                    f"rewards.embedding.{model}.path is set, but rewards.weights gives "
                    f"{' and '.join(served)} no weight; add one, such as --rewards.weights.{served[0]} 1"
                )
        return self

    @model_validator(mode="after")
    def _composition_fits(self) -> RewardsConfig:
        raw = self.normalisation == "none"
        if self.max_mean is not None and not raw:
            raise ValueError(
                f"rewards.max_mean: expected rewards.normalisation none with it, got {self.normalisation}, which takes "
                "the mean away; set --rewards.normalisation none"
            )
        if self.composition == "sum":
            return self
        if not raw:
            raise ValueError(
                "rewards.normalisation: expected none with rewards.composition gated, which scales every score by its "
                f"range, got {self.normalisation}; set --rewards.normalisation none"
            )
        weighted = {name: weight for name, weight in self.weights.items() if weight != 0}
        kinds, ranges = self.kinds, self.ranges
        for name, weight in weighted.items():
            if kinds[name] == "focus":
                raise ValueError(
                    f"rewards.weights.{name}: expected 0 with rewards.composition gated, which has no place for a "
                    f"reward for focus, got {weight:g}; set --rewards.weights.{name} 0, or --rewards.composition sum"
                )
            if weight < 0:
                raise ValueError(
                    f"rewards.weights.{name}: expected at least 0 with rewards.composition gated (a weighted mean), "
                    f"got {weight:g}"
                )
            if name not in ranges:
                raise ValueError(
                    f"rewards.scorer_ranges.{name}: expected its smallest and largest value, got none; "
                    "rewards.composition gated scales every score to 0..1. Such as: "
                    f"--rewards.scorer_ranges.{name} '[0, 1]'"
                )
        for kind, what in (("edit", "the edit"), ("preservation", "what is outside the mask")):
            if kind not in {kinds[name] for name in weighted}:
                raise ValueError(
                    f"rewards.weights: expected a reward for {what} with rewards.composition gated, got "
                    f"{', '.join(weighted)}; add one, or set --rewards.composition sum"
                )
        return self
