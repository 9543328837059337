"""The model card of a base editor."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path

from editing.shapes.pretrain.images import CAST, MISSED, WRONG
from editing.shapes.pretrain.quality import SEED, SPLIT, STEPS, Quality
from editing.shapes.pretrain.recipe import Recipe

CARD = """---
library_name: diffusers
pipeline_tag: image-to-image
license: apache-2.0
---
# Locus shapes base

A small, deliberately imperfect `FluxKontextPipeline` for 64×64 images: the editor that Locus's embedded
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

Only procedural images were used: scenes of the benchmark's *training* split and, for the autoencoder, dead-leaves
images. Targets are imperfect on purpose: {missed:.0%} miss the edit, {wrong:.0%} get an attribute wrong,
{cast:.0%} carry a colour cast and contrast change over the whole image. So what the model does depends on the
noise, and reinforcement learning has something to select. Text is padded to 12 tokens without a mask; use
`max_sequence_length=12`, `_auto_resize=False`, `max_area=64*64`, four Euler steps.

Seed {seed}, {processes} processes, {minutes:.0f} minutes of wall time.

{quality}"""

QUALITY = """## How good it is

Measured on {day} on the first {scenes} scenes of the {split} split (seed {seed}), whose layouts the training split does
not have: {steps} Euler steps from one noise per scene, float32 on a CPU. Mean ± standard error over the scenes.

| | |
|---|---|
| autoencoder: PSNR of the reconstructed source | {reconstruction_psnr} dB |
| base: edit accuracy (of 13 outcomes, the one shown is the one asked for) | {edit_accuracy} |
| base: edit score (1 at the truth alone) | {edit_score} |
| base: PSNR against the target inside the mask | {edit_psnr} dB |
| base: PSNR against the source outside the mask | {background_psnr} dB |

The same numbers for any base: `editing.shapes.pretrain.quality.measure_quality(folder, {scenes})`.
"""


def write_card(folder: Path, recipe: Recipe, minutes: float, quality: Quality) -> None:
    """Write `folder`/README.md from the recipe's settings, its wall time and its measured quality."""
    settings = asdict(recipe)
    arguments = "".join(
        f" --{name.replace('_', '-')} {settings[name]}"
        for name in ("seed", "processes", "autoencoder_steps", "autoencoder_images", "steps", "pairs", "device")
    )
    (folder / "README.md").write_text(
        CARD.format(
            arguments=arguments,
            missed=MISSED,
            wrong=WRONG,
            cast=CAST,
            seed=recipe.seed,
            processes=recipe.processes,
            minutes=minutes,
            quality=quality_section(quality, date.today()),
        ),
        encoding="utf-8",
    )


def quality_section(quality: Quality, day: date) -> str:
    """The card's section on quality, in Markdown."""
    values = {
        name: f"{quality.mean[name]:.{digits}f} ± {quality.error[name]:.{digits}f}"
        for name, digits in (
            ("reconstruction_psnr", 2),
            ("edit_accuracy", 3),
            ("edit_score", 3),
            ("edit_psnr", 2),
            ("background_psnr", 2),
        )
    }
    return QUALITY.format(day=day.isoformat(), scenes=quality.scenes, split=SPLIT, seed=SEED, steps=STEPS, **values)
