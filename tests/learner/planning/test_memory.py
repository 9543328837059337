"""The plan against what is measured: adapters, groups and conditions byte by byte; activations by counting again."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actors.rollout import roll_out
from configs.load import config_hash, load_config
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.editors.folder import PARTS, TARGETS, EditorSizes, editor_sizes
from editing.editors.lora import attach_lora
from editing.editors.policy import open_policy
from editing.weights import WeightVersion
from learner.planning.memory import (
    RolePlan,
    group_bytes,
    groups_alive,
    image_size_of,
    memory_plan,
    on_gpu,
    saved_bytes,
    text_tokens,
)
from learner.scheduling.sampler import LeaseSampler
from tests.learner.tiny_run import tiny_run

FLUX = {
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}


def item(plan: RolePlan, name: str) -> int:
    (found,) = [one.bytes for one in plan.items if one.name.startswith(name)]
    return found


def write_header(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file with a header and no weights: nothing may read beyond the header."""
    folder.mkdir(parents=True)
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers of FLUX.1-Kontext-dev's transformer, with the shapes that diffusers gives it; small other parts."""
    from diffusers import FluxTransformer2DModel

    folder = tmp_path_factory.mktemp("flux")
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX)
    write_header(folder / "transformer", {name: tuple(p.shape) for name, p in transformer.named_parameters()})
    for part in PARTS[1:]:
        write_header(folder / part, {"weight": (10, 10)})
    for name, content in {
        "model_index.json": {"_class_name": "FluxKontextPipeline"},
        "transformer/config.json": FLUX,
        "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
        "tokenizer_2/tokenizer_config.json": {"model_max_length": 512},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def kontext_run(folder: Path, *flags: str) -> RunConfig:
    return load_config(
        [
            "--editor.path",
            str(folder),
            "--editor.dtype",
            "bfloat16",
            "--editor.lora.targets",
            "attention",
            "--editor.lora.rank",
            "32",
            "--algorithm.type",
            "rc_grpo",
            "--data.type",
            "manifest",
            "--data.path",
            "nowhere.jsonl",
            "--sampler.group_size",
            "12",
            "--sampler.steps",
            "10",
            "--algorithm.trained_steps",
            str(list(range(10))),
            "--rewards.weights",
            "{background_psnr: 1}",
            *flags,
        ]
    )


def test_flux_kontext_has_its_known_size(flux):
    sizes = editor_sizes(flux)
    config = kontext_run(flux)
    learner, rollout = memory_plan(config, sizes)[:2]
    assert item(learner, "transformer") == item(rollout, "transformer") == pytest.approx(23.8e9, rel=0.01)
    assert sizes.adapter_parameters(32) == 32 * (19 * 8 + 38 * 3) * 2 * 3072  # 52 million
    assert item(learner, "AdamW") == 8 * sizes.adapter_parameters(32)
    # A packed latent of 512² pixels in float32 is 0.26 MB: 10 steps of 12 candidates and 2 anchors, and 12 images.
    assert image_size_of(config.data, sizes).tokens == 1024
    assert group_bytes(config, 64, 1024, 512**2) == 10 * 14 * 1024 * 64 * 4 + 12 * 512**2 * 3 + 44 + 16
    assert text_tokens(config.editor, sizes) == 512
    assert len(learner.items) > 8 and all(one.bytes > 0 for one in learner.items)


def test_checkpointing_and_micro_batches_save_the_memory_that_activations_take(flux):
    sizes = editor_sizes(flux)

    def activations(*flags: str) -> int:
        return item(memory_plan(kontext_run(flux, *flags), sizes)[0], "activations")

    whole, one = activations(), activations("--editor.micro_batch", "1")
    assert whole == 20 * one
    assert activations("--editor.micro_batch", "1", "--editor.gradient_checkpointing", "true") < one / 12


def test_a_gradient_of_the_whole_way_keeps_every_velocity_on_it(flux):
    sizes = editor_sizes(flux)

    def activations(*flags: str) -> int:
        flags = ("--algorithm.type", "rc_grpo", "--algorithm.trained_steps", "[1, 4]", *flags)
        return item(memory_plan(kontext_run(flux, *flags), sizes)[0], "activations")

    leap, detached, full = (
        activations("--algorithm.anchor_mode", mode) for mode in ("leap", "reintegrate_detached", "reintegrate_full")
    )
    one = leap // 4  # two anchors at two steps
    assert detached == leap == 4 * one
    assert full == leap + 2 * 4 * one  # and four steps of two anchors to the second one
    assert activations("--algorithm.anchor_mode", "reintegrate_full", "--editor.micro_batch", "1") == (1 + 2 * 4) * one


def test_a_version_of_the_adapter_has_the_planned_bytes(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "plan")
    weights = WeightVersion.capture(open_policy(config.editor, config.seed).transformer, 0)
    (plan,) = memory_plan(config, editor_sizes(tiny_kontext))
    assert item(plan, "adapter, float32") == sum(array.nbytes for array in weights.arrays.values())


@pytest.mark.parametrize(
    "over",
    [
        {"rewards": {"weights": {"edit_psnr": 1.0}}},
        {"rewards": {"weights": {"edit_psnr": 1.0, "acd": 1.0}}},
        *({"algorithm": {"type": kind}, "rewards": {"weights": {"rank": 1.0}}} for kind in ("sft", "dpo")),
    ],
)
def test_a_group_and_a_condition_have_the_planned_bytes(tiny_kontext, tmp_path, over):
    config = tiny_run(tiny_kontext, tmp_path, "plan", over)
    editor, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    lease = LeaseSampler(0, 6, 2).leases(0, 0)[0]
    task = tasks.train[lease.task_index]
    group = roll_out(editor, task, lease, config, config_hash(config))
    sizes = editor_sizes(tiny_kontext)
    size = image_size_of(config.data, sizes)
    assert size.pixels == task.height * task.width and not size.assumed
    counted = group_bytes(config, sizes.channels, size.tokens, size.pixels)
    assert counted == sum(value.nbytes for value in vars(group).values() if isinstance(value, np.ndarray))
    condition = editor.encode(task)
    held = sum(value.nbytes for value in vars(condition).values() if isinstance(value, torch.Tensor))
    (plan,) = memory_plan(config, sizes)
    assert item(plan, "encoded tasks, 9 at most") == 9 * held
    assert item(plan, f"trajectories, {groups_alive(config)} groups") == 2 * counted


SMALL = EditorSizes(
    {},
    {},
    width=256,
    double=2,
    single=3,
    channels=16,
    text_width=24,
    pooled_width=16,
    text_tokens=16,
    pixels_per_token=16,
    vae_channels=8,
)


def saved_by_autograd(dtype: torch.dtype, rank: int, text: int, image: int, checkpointing: bool, targets: str) -> int:
    """Bytes of the tensors, parameters excepted, that autograd holds after a forward."""
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=SMALL.channels,
        num_layers=SMALL.double,
        num_single_layers=SMALL.single,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=SMALL.text_width,
        pooled_projection_dim=SMALL.pooled_width,
        guidance_embeds=False,
        axes_dims_rope=(8, 28, 28),
    ).to(dtype)
    attach_lora(transformer, rank, rank, 0, TARGETS[targets])
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    weights = {p.untyped_storage().data_ptr() for p in transformer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = transformer(
            hidden_states=torch.randn(1, image, SMALL.channels, dtype=dtype),
            timestep=torch.ones(1),
            pooled_projections=torch.randn(1, SMALL.pooled_width, dtype=dtype),
            encoder_hidden_states=torch.randn(1, text, SMALL.text_width, dtype=dtype),
            txt_ids=torch.zeros(text, 3),
            img_ids=torch.zeros(image, 3),
            return_dict=False,
        )[0]
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", list(TARGETS))
def test_activations_are_estimated_as_autograd_keeps_them(dtype, checkpointing, targets):
    flags = ["--editor.dtype", dtype, "--editor.lora.rank", "4", "--editor.lora.targets", targets]
    if checkpointing:
        flags += ["--editor.gradient_checkpointing", "true"]
    config = load_config(flags)
    seen = saved_by_autograd(getattr(torch, dtype), 4, 16, 128, checkpointing, targets)
    planned = saved_bytes(config.editor, SMALL, 16 + 128)
    if checkpointing:  # one block at a time is computed again, on top of what is kept
        block = saved_bytes(load_config(flags[:6]).editor, replace(SMALL, double=1, single=0), 16 + 128)
        planned -= block
    assert planned == pytest.approx(seen, rel=0.05)


def test_in_one_process_the_editor_is_there_once(tiny_kontext, tmp_path):
    sizes = editor_sizes(tiny_kontext)
    (one,) = memory_plan(tiny_run(tiny_kontext, tmp_path, "plan"), sizes)
    many = memory_plan(tiny_run(tiny_kontext, tmp_path, "plan", {"cluster": {"mode": "ray"}}), sizes)
    names = [entry.name for entry in one.items]
    assert sum(name.startswith("transformer") for name in names) == 1 and "AdamW moments, float32" in names
    assert [plan.role for plan in many] == [
        "learner",
        "rollout worker",
        "reward pool",
        "driver",
        "object store and run folder",
    ]


def test_staleness_keeps_older_adapters_and_more_groups(tiny_kontext, tmp_path):
    sizes = editor_sizes(tiny_kontext)
    fresh, stale = (
        tiny_run(tiny_kontext, tmp_path, "plan", {"cluster": {"mode": "ray", "staleness": k}}) for k in (0, 2)
    )
    adapter = 4 * sizes.adapter_parameters(2)
    assert groups_alive(fresh) == 2 and groups_alive(stale) == 6
    assert item(memory_plan(fresh, sizes)[0], "adapter, 1 copy") == adapter
    assert item(memory_plan(stale, sizes)[0], "adapter, 4 copies") == 4 * adapter


def test_learner_processes_hold_a_share_of_the_step_s_groups_and_all_else_each_for_itself(tiny_kontext, tmp_path):
    sizes = editor_sizes(tiny_kontext)

    def learner(processes: int) -> RolePlan:
        return memory_plan(
            tiny_run(
                tiny_kontext,
                tmp_path,
                "plan",
                {
                    "cluster": {"mode": "ray"},
                    "rewards": {"normalisation": "pooled"},
                    "learner": {"groups_per_step": 7, "num_workers": processes},
                },
            ),
            sizes,
        )[0]

    one, three = learner(1), learner(3)
    assert (one.count, three.count) == (1, 3)
    assert item(one, "7 groups in training") * 3 == item(three, "3 groups in training") * 7
    only_here = {entry.name for entry in three.items} - {entry.name for entry in one.items}
    assert only_here == {"3 groups in training", "gradients that the processes add up"}
    assert item(three, "gradients that") == 2 * item(three, "gradients, float32")
    assert three.bytes("editor") == one.bytes("editor")


def test_the_device_is_the_one_that_a_process_will_find():
    ray = load_config(["--cluster.mode", "ray", "--cluster.gpus_for_learner", "1"])
    assert on_gpu(ray, "learner", 0) and not on_gpu(ray, "rollout worker", 0) and on_gpu(ray, "rollout worker", 1)
    assert not on_gpu(load_config(["--editor.device", "cpu"]), "learner", 8)
    assert on_gpu(load_config(["--editor.device", "cuda:1"]), "this process", 0)


def test_embedding_models_are_planned_where_they_run(tiny_kontext, tmp_path):
    from tests.rewards.embedding.tiny_models import make_tiny

    folder = make_tiny(tmp_path / "clip", "clip")
    rewards = {"weights": {"clip_text": 1.0}, "embedding": {"clip": {"path": str(folder), "device": "cpu"}}}

    def pool(**more):
        changed = {**rewards, "embedding": {"clip": {**rewards["embedding"]["clip"], **more}, "gpus": 0.5}}
        config = tiny_run(tiny_kontext, tmp_path, "plan", {"cluster": {"mode": "ray"}, "rewards": changed})
        plans = memory_plan(config, editor_sizes(tiny_kontext))
        return config, next(plan for plan in plans if plan.role == "reward pool")

    config, on_host = pool()
    parameters = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    assert item(on_host, "clip, float32") == 4 * parameters and on_host.bytes("editor") == 0
    assert not on_gpu(config, "reward pool", 8)
    config, on_device = pool(device="auto", dtype="bfloat16")
    assert item(on_device, "clip, bfloat16") == 2 * parameters and item(on_device, "GPU context") > 0
    assert on_gpu(config, "reward pool", 0) and on_device.bytes("editor") > on_device.bytes("host") / 1000


@pytest.mark.parametrize(
    ("flags", "groups"),
    [
        ((), "1 group"),
        (("--learner.updates_per_step", "2"), "12 groups"),
        (("--rewards.normalisation", "minibatch"), "12 groups"),
        (("--algorithm.advantage.kind", "global_std"), "12 groups"),
    ],
)
def test_groups_that_wait_for_the_whole_step_are_counted(flags, groups):
    config = load_config(["--algorithm.type", "rc_grpo", *flags])
    learner = memory_plan(config, editor_sizes(config.editor.path))[0]
    assert item(learner, f"{groups} in training") > 0
