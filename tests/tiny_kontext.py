"""A random FLUX Kontext pipeline of a few ten thousand parameters, in ordinary diffusers format."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from editing.editors.tokenizers import build_clip_tokenizer, build_t5_tokenizer

WORDS = (
    "add",
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "remove",
    "the",
    "make",
    "it",
    "left",
    "right",
)


def make_tiny_kontext(
    folder: str | Path,
    *,
    double: int = 2,
    single: int = 2,
    heads: int = 2,
    head_dim: int = 16,
    axes: tuple[int, int, int] = (4, 6, 6),
    latent_channels: int = 4,
    vae_factor: int = 4,
    guidance_embeds: bool = False,
    text_len: int = 10,
    words: Sequence[str] = WORDS,
    seed: int = 0,
) -> Path:
    """Writes the pipeline to `folder` and returns it.

    Every linear and convolution is drawn at unit gain (none is zero, as a fresh DiT's would be), so text,
    source image and noise all move the velocity. The T5 length is `text_len` for Locus; stock calls pass
    it as `max_sequence_length`. `vae_factor` is a power of two, and `axes` must sum to `head_dim`.
    """
    levels = vae_factor.bit_length()
    assert 2 ** (levels - 1) == vae_factor and sum(axes) == head_dim
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(words, 12), build_t5_tokenizer(words, text_len)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip_tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=3,
            )
        )
        text_encoder_2 = T5EncoderModel(
            T5Config(vocab_size=len(t5_tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
        vae = AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=latent_channels,
            layers_per_block=1,
            norm_num_groups=4,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.7,
            shift_factor=0.1,
        )
        transformer = FluxTransformer2DModel(
            in_channels=4 * latent_channels,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=head_dim,
            num_attention_heads=heads,
            joint_attention_dim=24,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes,
        )
        for module in (vae, transformer):
            _draw_at_unit_gain(module)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        shift=3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    for module in (text_encoder, text_encoder_2, vae, transformer):
        module.eval()
    FluxKontextPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)
    return Path(folder)


def _draw_at_unit_gain(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
