"""Second half of the recipe: text encoders and transformer, flow matching on imperfect targets."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from editing.editors.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from editing.masks import pool_mask
from editing.shapes.edits import KINDS, edit_at, edit_mask
from editing.shapes.pretrain.autoencoder import to_model
from editing.shapes.pretrain.errors import check_finite
from editing.shapes.pretrain.images import imperfect_target
from editing.shapes.pretrain.parallel import Average, average_gradients, share
from editing.shapes.scenes import COLOURS, PLACES, SHAPES, paint, to_uint8

TEXT_TOKENS = 12
CLIP_TOKENS = 16
MASK_WEIGHT = 4.0  # loss weight 1 + 4 inside the mask
NOISE_ONLY = 0.15  # share of samples with t drawn close to 1, where the sampler starts
WORDS = sorted({*" ".join((*COLOURS, *SHAPES, *PLACES, *KINDS)).split(), "a", "the", "at", "to", "with", "object"})


def make_pipeline(vae: AutoencoderKL) -> FluxKontextPipeline:
    """The untrained base around a trained autoencoder: 2 double + 2 single blocks of width 96."""
    tokenizer, tokenizer_2 = (
        build_clip_tokenizer(WORDS, max_length=CLIP_TOKENS),
        build_t5_tokenizer(WORDS, max_length=TEXT_TOKENS),
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_2),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * vae.config.latent_channels,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in transformer.named_modules():  # as in DiT: blocks start as the identity
        if isinstance(module, nn.Linear) and (
            name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear"))
            or name in ("proj_out", "norm_out.linear")
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


@dataclass(frozen=True)
class Pairs:
    """Encoded training pairs: packed latents [M, 64, 64], token masks [M, 64], token ids."""

    source: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    t5_ids: torch.Tensor
    clip_ids: torch.Tensor


@torch.no_grad()
def encode_pairs(pipeline: FluxKontextPipeline, seed: int, indices: range, device: str) -> Pairs:
    """Pairs `indices` of the training split, with imperfect targets."""
    edits = [edit_at("train", seed, index) for index in indices]
    targets = np.stack(
        [
            imperfect_target(np.random.default_rng([seed, index]), edit)
            for index, edit in zip(indices, edits, strict=True)
        ]
    )
    sources = np.stack([to_uint8(paint(edit.scene)) for edit in edits])
    texts = [edit.instruction for edit in edits]
    vae = pipeline.vae

    def latents(images: np.ndarray) -> torch.Tensor:
        parts = [
            vae.encode(to_model(part).to(device)).latent_dist.mode()
            for part in np.array_split(images, min(64, len(images)))
        ]
        z = (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor
        packed: torch.Tensor = pipeline._pack_latents(z, *z.shape)
        return packed

    def ids(tokenizer: Any, length: int) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found: torch.Tensor = tokens.input_ids.to(device)
        return found

    mask = torch.stack([pool_mask(edit_mask(edit), (8, 8)) for edit in edits]).to(device)
    return Pairs(
        latents(sources),
        latents(targets),
        mask,
        ids(pipeline.tokenizer_2, TEXT_TOKENS),
        ids(pipeline.tokenizer, CLIP_TOKENS),
    )


def draw_times(batch: int, generator: torch.Generator) -> torch.Tensor:
    """t = sigmoid(N(0.7, 1.2)), and close to 1 in NOISE_ONLY of the samples; float32 [batch]."""
    t = torch.sigmoid(0.7 + 1.2 * torch.randn(batch, generator=generator))
    late = torch.rand(batch, generator=generator) < NOISE_ONLY
    return torch.where(late, 1 - 0.02 * torch.rand(batch, generator=generator), t)


def train_base(folder: Path, steps: int, batch: int, count: int, seed: int, device: str) -> None:
    """Train in every process of the group; rank 0 writes the whole pipeline to `folder`, beside its `vae`.

    Args:
        folder: with the trained autoencoder.
        steps: optimizer steps.
        batch: pairs per step, shared among the processes.
        count: training pairs, shared likewise.
        seed: of everything random; what is drawn also depends on the number of processes.
        device: of the transformer.

    Raises:
        RecipeError: in every process, for a loss that is not finite.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    own = len(share(batch, world, rank))
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # do not publish the path of the training machine
    pipeline = make_pipeline(vae)
    pipeline.to(device)
    pairs = encode_pairs(pipeline, seed, share(count, world, rank), device)
    modules = [pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2]
    for module in modules:
        module.train()
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
        ),
    )
    average = Average(modules, 0.998)
    generator = torch.Generator().manual_seed(seed * 1000 + rank)
    image_ids = pipeline._prepare_latent_image_ids(1, 8, 8, torch.device(device), torch.float32)
    reference_ids = image_ids.clone()
    reference_ids[:, 0] = 1
    image_ids, text_ids = torch.cat([image_ids, reference_ids]), torch.zeros(TEXT_TOKENS, 3, device=device)
    started = time.monotonic()
    for step in range(steps):
        rows = torch.randint(len(pairs.source), (own,), generator=generator)
        x0, source, weight = pairs.target[rows], pairs.source[rows], 1 + MASK_WEIGHT * pairs.mask[rows]
        t = draw_times(own, generator).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        x_t = torch.lerp(x0, noise, t[:, None, None])
        velocity = pipeline.transformer(
            hidden_states=torch.cat([x_t, source], dim=1),
            timestep=t,
            pooled_projections=pipeline.text_encoder(pairs.clip_ids[rows]).pooler_output,
            encoder_hidden_states=pipeline.text_encoder_2(pairs.t5_ids[rows])[0],
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0][:, : x0.shape[1]]
        loss = (weight[..., None] * F.mse_loss(velocity, noise - x0, reduction="none")).mean() / weight.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mean_loss = average_gradients(parameters, loss, own / batch)
        check_finite(mean_loss, "base", step)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.update()
        if rank == 0 and (step % 100 == 99 or step == steps - 1):
            print(f"base {step + 1}/{steps}  {time.monotonic() - started:.0f} s  loss {mean_loss:.4f}", flush=True)
    average.swap()
    if rank == 0:
        pipeline.save_pretrained(folder, safe_serialization=True)
