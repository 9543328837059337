"""First half of the recipe: an AutoencoderKL with factor 4 for 64×64 images."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL

from editing.shapes.pretrain.errors import check_finite
from editing.shapes.pretrain.images import autoencoder_images
from editing.shapes.pretrain.parallel import Average, average_gradients, share

LATENT_NOISE = 0.05


def make_autoencoder() -> AutoencoderKL:
    """The untrained model: three levels, one block each, no attention; 16 latent channels at a quarter size."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 32, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
    )


def to_model(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(folder: Path, steps: int, batch: int, count: int, seed: int) -> None:
    """Train in every process of the group; rank 0 writes the diffusers folder `folder`/vae.

    Args:
        folder: of the base.
        steps: optimizer steps.
        batch: images per step, shared among the processes.
        count: training images, shared likewise.
        seed: of everything random; what is drawn also depends on the number of processes.

    Raises:
        RecipeError: in every process, for a loss that is not finite.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    own = len(share(batch, world, rank))
    torch.manual_seed(seed)
    model = make_autoencoder().to(memory_format=torch.channels_last)
    images = autoencoder_images(seed * 1000 + rank, len(share(count, world, rank)))
    held_out = to_model(autoencoder_images(10**6 + seed, 96))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))),
    )
    average = Average([model], 0.998)
    rng, start = np.random.default_rng([seed, rank]), time.monotonic()
    torch.manual_seed(seed + 1 + rank)
    for step in range(steps):
        x = to_model(images[rng.integers(len(images), size=own)])
        if rng.uniform() < 0.5:
            x = x.flip(-1)
        latents = model.encode(x).latent_dist.mean
        y = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + 1e-4 * latents.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mean_loss = average_gradients(model.parameters(), loss, own / batch)
        check_finite(mean_loss, "autoencoder", step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update()
        if rank == 0 and (step % 200 == 199 or step == steps - 1):
            average.swap()
            print(
                f"autoencoder {step + 1}/{steps}  {time.monotonic() - start:.0f} s  loss {mean_loss:.4f}  "
                f"held-out PSNR {reconstruction_psnr(model, held_out):.2f} dB",
                flush=True,
            )
            if step == steps - 1:
                save_autoencoder(model, held_out, folder)
            average.swap()


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, x: torch.Tensor) -> float:
    """Mean PSNR in dB of the reconstructions of the scenes (not the dead leaves) of `x` [B, 3, H, W]."""
    keep = [i for i in range(len(x)) if i % 4 != 3]
    y = model.decode(model.encode(x[keep]).latent_dist.mean).sample.clamp(-1, 1)
    error = ((y - x[keep]) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def save_autoencoder(model: AutoencoderKL, x: torch.Tensor, folder: Path) -> None:
    """Write the model with the shift and scale that give its latents zero mean and unit variance."""
    latents = model.encode(x).latent_dist.mean
    model.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
    model.save_pretrained(folder / "vae")
