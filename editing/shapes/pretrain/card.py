"""The model card that is shipped with a base editor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = """---
library_name: diffusers
pipeline_tag: image-to-image
license: apache-2.0
---
# Locus shapes base

A small, deliberately imperfect `FluxKontextPipeline` for 64×64 pictures: the editor that Locus's embedded
benchmark trains. It loads with plain `FluxKontextPipeline.from_pretrained(folder)`.

- `transformer`: FluxTransformer2DModel, 2 double + 2 single blocks, 3 heads of 32, no guidance embedding, about
  1.03 M parameters
- `vae`: AutoencoderKL, factor 4, 16 latent channels (24, 32, 64), about 0.69 M parameters; 8×8 packed tokens of 64
  channels
- `text_encoder`, `text_encoder_2`: CLIP (1 layer, 32) and T5 (1 layer, 64), trained with the transformer; word-level
  tokenizers of 21 words
- `scheduler`: FlowMatchEulerDiscreteScheduler without shift

## How it was made

    python -m editing.shapes.pretrain --out FOLDER{arguments}

Only procedural pictures were used: scenes of the benchmark's *training* split and, for the autoencoder, dead-leaves
pictures. Targets are imperfect on purpose: {missed:.0%} miss the edit, {wrong:.0%} get an attribute wrong,
{cast:.0%} carry a colour cast and contrast change over the whole picture. So what the model does depends on the
noise, and reinforcement learning has something to select. Text is padded to 12 tokens without a mask; use
`max_sequence_length=12`, `_auto_resize=False`, `max_area=64*64`, four Euler steps.

Seed {seed}, {processes} processes, {minutes:.0f} minutes of wall time.
"""


def write_card(folder: Path, settings: Mapping[str, Any], seconds: float) -> None:
    """Write `folder`/README.md from the recipe's settings and its measured time."""
    from editing.shapes.pretrain.pictures import CAST, MISSED, WRONG

    shown = ("seed", "autoencoder_steps", "autoencoder_pictures", "steps", "pairs", "device")
    arguments = "".join(f" --{key.replace('_', '-')} {settings[key]}" for key in shown)
    (folder / "README.md").write_text(CARD.format(
        arguments=arguments, missed=MISSED, wrong=WRONG, cast=CAST, seed=settings["seed"],
        processes=settings["processes"], minutes=seconds / 60), encoding="utf-8")
