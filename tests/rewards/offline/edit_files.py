"""A folder of edits for tests: sources, masks, edited images, and a manifest that names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = (24, 32)


def write_edits(folder: Path, sources: int = 3, candidates: int = 4, header: bool = True) -> Path:
    """Images of 32 × 24 pixels; candidate c changes the background by noise of size c."""
    rng = np.random.default_rng(0)
    lines = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}] if header else []
    mask = np.zeros(SIDE, np.uint8)
    mask[6:14, 8:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for number in range(sources):
        source = rng.integers(40, 200, (*SIDE, 3))
        edited = []
        for candidate in range(candidates):
            image = source + rng.normal(0, 1 + 2 * candidate, source.shape)
            image[mask > 0] = (200, 10 * number, 10)
            edited.append(f"edited_{number}_{candidate}.png")
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / edited[-1])
        Image.fromarray(source.astype(np.uint8)).save(folder / f"source_{number}.png")
        lines.append(
            {
                "id": f"task-{number}",
                "source": f"source_{number}.png",
                "mask": "mask.png",
                "instruction": "paint the box red",
                "edited": edited,
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
