"""How much memory each process of a run needs: arithmetic on configuration and model folder. Nothing is loaded.

Weights, adapter, optimizer and trajectories are counted exactly; activations are estimated (`SAVED`, `WORKING`), and so
is what Python and its libraries take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.placement import LEARNER, POOL, ROLLOUT
from configs.rewards import RewardsConfig
from configs.schema import EditorConfig, ManifestData, RunConfig, ShapesData
from configs.text import counted
from editing.editors.folder import CACHED_CONDITIONS, EditorSizes, read_json, tensor_shapes
from rewards.embedding.folder import checked_folder, weighted_models

Where = Literal["editor", "host", "store", "disk"]
"""On the editor's device, in the memory of the process, in Ray's object store, or in the run folder."""

ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
SAVED = {
    "attention": {"float32": (52.5, 48.4), "bfloat16": (44.4, 38.4)},
    "attention_mlp": {"float32": (72.5, 68.4), "bfloat16": (64.4, 62.4)},
}
"""Bytes per token and unit of width that autograd keeps of one double and one single FLUX block with a frozen base and
LoRA on these parts. Counted with saved-tensor hooks (diffusers 0.42.1, peft 0.21.2, torch 2.13.0), as a test does."""
ADAPTED = {"attention": (4, 3), "attention_mlp": (6, 5)}
"""Adapted maps of a double and a single block that a token goes through, each of which keeps `rank` values of it."""
WORKING = 16
"""Values per token and unit of width at the peak inside a block: its input, q, k, v and the fourfold MLP, before and
after its activation. An estimate."""
DECODING = 4
"""Feature maps of full resolution at the peak of the decoder. An estimate."""
PROCESS_BYTES = 400 * 2**20
"""Python with torch, diffusers and Ray. Measured on Linux without GPU: 340 MB unshared with a tiny editor."""
RAY_BYTES = 500 * 2**20
"""Ray's own processes on a machine, without dashboard. Measured with it: 630 MB."""
CONTEXT_BYTES = 500 * 2**20
"""What CUDA and its libraries take of a GPU per process. An estimate."""
ASSUMED_SIDE = 1024
"""Side of an image whose size no setting bounds."""


@dataclass(frozen=True)
class Item:
    """One thing that takes memory; `exact` for what is counted, not estimated."""

    name: str
    bytes: int
    exact: bool
    where: Where


@dataclass(frozen=True)
class RolePlan:
    """What each of `count` processes of one kind needs."""

    role: str
    count: int
    items: tuple[Item, ...]

    def bytes(self, *where: Where) -> int:
        """What one process needs in these places."""
        return sum(item.bytes for item in self.items if item.where in where)


@dataclass(frozen=True)
class ImageSize:
    """The size of images: (pixels, tokens) of one, and where that is known from; `assumed` when it is not."""

    pixels: int
    tokens: int
    assumed: bool


def image_size_of(data: ShapesData | ManifestData, sizes: EditorSizes) -> ImageSize:
    """The size of the run's images, up to the snapping of their sides."""
    square = sizes.pixels_per_token**2
    if isinstance(data, ShapesData):
        from editing.shapes.scenes import SIZE  # needs numpy and Pillow

        return ImageSize(SIZE**2, SIZE**2 // square, False)
    side = data.resolution or ASSUMED_SIDE
    return ImageSize(side**2, side**2 // square, data.resolution is None)


def text_tokens(editor: EditorConfig, sizes: EditorSizes) -> int:
    """V, the padded length of the instruction."""
    return editor.max_text_tokens or sizes.text_tokens


def group_bytes(config: RunConfig, channels: int, tokens: int, pixels: int) -> int:
    """Bytes of the arrays of one trajectory group, see `editing.trajectory.TrajectoryGroup`.

    With K kept steps, G candidates and B anchors, K (G + B) states [N, C] and G images; the rest is small.
    """
    size = config.group_size
    _, anchors = config.algorithm.kept(config.sampler.steps, size)
    small = 4 * (config.sampler.steps + 1) + 8 * anchors
    acd = 4 * size if config.rewards.weights.get("acd", 0) != 0 else 0
    return latent_bytes(config, channels, tokens) + 3 * size * pixels + small + acd


def latent_bytes(config: RunConfig, channels: int, tokens: int) -> int:
    """Bytes of the states of a group, see `group_bytes`."""
    size = config.group_size
    steps, anchors = config.algorithm.kept(config.sampler.steps, size)
    return 4 * steps * (size + anchors) * tokens * channels


def groups_alive(config: RunConfig) -> int:
    """How many groups exist at most at a time, see `learner.scheduling.collector.Collector`."""
    return (config.cluster.staleness + 1) * config.learner.groups_per_step


def saved_bytes(editor: EditorConfig, sizes: EditorSizes, tokens: int) -> int:
    """What autograd keeps of one sample's forward until its backward. An estimate.

    With gradient checkpointing only the input of every block is kept, and one block at a time is computed again.

    Args:
        editor: as configured.
        sizes: of the editor.
        tokens: of the whole sequence: text, generated and reference image.
    """
    kept, maps = SAVED[editor.lora.targets][editor.dtype], ADAPTED[editor.lora.targets]
    of_double, of_single = (
        of_block * sizes.width + 4 * editor.lora.rank * count for of_block, count in zip(kept, maps, strict=True)
    )
    if editor.gradient_checkpointing:
        inputs = (sizes.double + sizes.single + 1) * sizes.width * ITEM[editor.dtype]
        return round(tokens * (inputs + max(of_double, of_single)))
    return round(tokens * (sizes.double * of_double + sizes.single * of_single))


def memory_plan(config: RunConfig, sizes: EditorSizes) -> list[RolePlan]:
    """The plan of every kind of process, judges excepted; in one process the parts share one editor."""
    plan = _Plan(config, sizes)
    groups = groups_alive(config) * plan.group
    disk = (
        Item("spool, at most", plan.group * config.learner.groups_per_step * config.checkpoint.every, True, "disk"),
        Item("checkpoints", config.checkpoint.keep * plan.adapter * (3 + plan.kept), True, "disk"),
    )
    latents = latent_bytes(config, sizes.channels, plan.image.tokens)
    made_of = f"{plan.group} bytes ({latents} of latents)"
    waiting = Item(f"trajectories, {groups_alive(config)} groups of {made_of} at most", groups, True, "store")
    if config.cluster.mode == "inline":
        items = (
            *plan.editor(),
            *plan.learner(),
            *plan.rollout(),
            *embedding_items(config.rewards),
            Item(waiting.name, groups, True, "host"),
            *disk,
        )
        return [RolePlan("this process", 1, items)]
    versions = Item("two versions of the adapter on their way", 2 * plan.adapter, True, "store")
    scored = Item("a group that is scored", plan.group, True, "host")
    embeddings = embedding_items(config.rewards)
    if any(one.where == "editor" for one in embeddings):
        embeddings.append(Item("GPU context", CONTEXT_BYTES, False, "editor"))
    return [
        RolePlan(LEARNER, config.learner.num_workers, (*plan.editor(), *plan.learner())),
        RolePlan(ROLLOUT, config.cluster.rollout_workers, (*plan.editor(), *plan.rollout())),
        RolePlan(POOL, 1, (plan.process, scored, *embeddings)),
        RolePlan("driver", 1, (plan.process, Item("Ray's own processes", RAY_BYTES, False, "host"))),
        RolePlan("object store and run folder", 1, (waiting, versions, *disk)),
    ]


class _Plan:
    """The items, for one configuration and editor."""

    process = Item("Python and libraries", PROCESS_BYTES, False, "host")

    def __init__(self, config: RunConfig, sizes: EditorSizes) -> None:
        self.config, self.sizes = config, sizes
        self.image, self.item = image_size_of(config.data, sizes), ITEM[config.editor.dtype]
        self.tokens = text_tokens(config.editor, sizes) + 2 * self.image.tokens
        self.adapter = 4 * sizes.adapter_parameters(config.editor.lora.rank)
        self.group = group_bytes(config, sizes.channels, self.image.tokens, self.image.pixels)
        # Above staleness 0 the learner keeps the adapters that groups may still come from.
        behind = config.cluster.staleness > 0 or config.algorithm.rolls_out_mean
        self.kept = (config.cluster.staleness + 1) * behind + (config.learner.optimizer.ema is not None)

    def editor(self) -> list[Item]:
        """What every process with an editor holds."""
        sizes, parts = self.sizes, self.sizes.parameters
        encoders = parts["text_encoder"] + parts["text_encoder_2"]
        return [
            self.process,
            Item("GPU context", CONTEXT_BYTES, False, "editor"),
            Item(f"transformer, {self.config.editor.dtype}", parts["transformer"] * self.item, True, "editor"),
            Item("text encoders", encoders * self.item, True, "editor"),
            Item("VAE", parts["vae"] * self.item, True, "editor"),
            Item("adapter, float32", self.adapter, True, "editor"),
            Item(
                f"encoded tasks, {self.conditions} at most",
                self.conditions * self.condition_bytes(text_tokens(self.config.editor, sizes)),
                True,
                "editor",
            ),
        ]

    @property
    def conditions(self) -> int:
        """How many encoded tasks there will be at most."""
        data = self.config.data
        tasks = data.train_tasks + data.held_out_tasks if isinstance(data, ShapesData) else CACHED_CONDITIONS
        return min(CACHED_CONDITIONS, tasks)

    def condition_bytes(self, text: int) -> int:
        """Bytes of one `editing.editors.base.Condition`."""
        sizes = self.sizes
        embeds = (text * sizes.text_width + sizes.pooled_width) * self.item
        return embeds + text + 4 * self.image.tokens * sizes.channels

    def learner(self) -> list[Item]:
        """What training adds."""
        config = self.config
        pairs = config.algorithm.query_count(config.sampler.steps, config.group_size)
        # The way to the states is kept whole, whatever the micro-batch, until all gradients have come back to it.
        batch, way = min(config.editor.micro_batch or pairs, pairs), config.algorithm.way_count
        how = "with gradient checkpointing" if config.editor.gradient_checkpointing else "without checkpointing"
        # The groups of the other processes are let go of.
        share = math.ceil(config.learner.groups_per_step / config.learner.num_workers)
        held = 1 if config.group_by_group else share
        copies = self.kept + 1
        added = [Item("gradients that the processes add up", 2 * self.adapter, False, "host")]
        return [
            Item("gradients, float32", self.adapter, True, "editor"),
            Item("AdamW moments, float32", 2 * self.adapter, True, "editor"),
            Item(
                f"activations of {counted(batch + way, 'sample')}, {how}",
                (batch + way) * saved_bytes(config.editor, self.sizes, self.tokens),
                False,
                "editor",
            ),
            Item("working set of a block", self.working(batch), False, "editor"),
            Item(
                f"adapter, {copies} " + ("copies" if copies > 1 else "copy") + " for publishing and stale groups",
                copies * self.adapter,
                True,
                "host",
            ),
            Item(f"{counted(held, 'group')} in training", held * self.group, True, "host"),
            *(added if config.learner.num_workers > 1 else []),
        ]

    def rollout(self) -> list[Item]:
        """What a rollout adds."""
        size = self.config.group_size
        batch = min(self.config.editor.micro_batch or size, size)
        decoding = batch * self.image.pixels * self.sizes.vae_channels * DECODING * self.item
        return [
            Item(f"working set of {counted(batch, 'sample')}", max(self.working(batch), decoding), False, "editor"),
            Item("states of a group", self.group, True, "editor"),
            Item("the finished group", self.group, True, "host"),
        ]

    def working(self, batch: int) -> int:
        """The peak inside a block without gradient."""
        return batch * self.tokens * self.sizes.width * WORKING * self.item


def embedding_items(rewards: RewardsConfig) -> list[Item]:
    """What the embedding models take: weights as their files' headers say, and a batch inside a block.

    Raises:
        EmbeddingError: when a model's folder lacks a file.
    """
    found = []
    for name in weighted_models(rewards):
        model = getattr(rewards.embedding, name)
        folder, item = checked_folder(name, model.path), ITEM[model.dtype]
        where: Where = "host" if model.device == "cpu" else "editor"
        count = sum(math.prod(shape) for shape in tensor_shapes(folder).values())
        found += [
            Item(f"{name}, {model.dtype}", count * item, True, where),
            Item(
                f"working set of {model.batch_size} images in {name}",
                model.batch_size * _values_per_image(folder) * WORKING * item,
                False,
                where,
            ),
        ]
    return found


def _values_per_image(folder: Path) -> int:
    """Tokens times width of an image in a vision transformer, by its config.json and the defaults of transformers."""
    config = read_json(folder / "config.json")
    vision = config.get("vision_config", config)
    patches = int(vision.get("image_size", 224)) // int(vision.get("patch_size", 16))
    return (patches**2 + 1) * int(vision.get("hidden_size", 768))


def on_gpu(config: RunConfig, role: str, gpus_here: int) -> bool:
    """Whether the models of a role sit on a GPU: `auto` takes one where there is one."""
    cluster, embedding = config.cluster, config.rewards.embedding
    devices = [config.editor.device]
    if role == POOL:
        devices = [getattr(embedding, name).device for name in weighted_models(config.rewards)]
    if "auto" not in devices:
        return any(device.startswith("cuda") for device in devices)
    reserved = {LEARNER: cluster.gpus_for_learner, ROLLOUT: cluster.gpus_per_rollout_worker, POOL: embedding.gpus}
    if role == POOL and cluster.mode == "ray" and not embedding.gpus:
        return False  # Ray hides GPUs from a process that reserved none
    return gpus_here > 0 or (cluster.mode == "ray" and reserved.get(role, 0.0) > 0)
