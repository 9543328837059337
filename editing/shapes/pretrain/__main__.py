"""Make the embedded base editor: an autoencoder, then text encoders and transformer, in diffusers format.

    python -m editing.shapes.pretrain --out my_base            # about half an hour on two CPU cores
    python -m editing.shapes.pretrain --out my_base --device cuda
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from editing.editors.load import BUILT_IN, resolve_editor
from editing.shapes.pretrain.autoencoder import train_autoencoder
from editing.shapes.pretrain.base import train_base
from editing.shapes.pretrain.card import write_card
from editing.shapes.pretrain.parallel import launch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m editing.shapes.pretrain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=resolve_editor(BUILT_IN),
                        help="folder of the new base, diffusers format (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="data-parallel processes")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the transformer")
    parser.add_argument("--autoencoder-steps", type=int, default=1500, help="0 keeps the one in OUT/vae")
    parser.add_argument("--autoencoder-pictures", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=2000, help="transformer steps")
    parser.add_argument("--pairs", type=int, default=8000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if options.autoencoder_steps:
        launch(train_autoencoder, (options.out, options.autoencoder_steps, 16 // options.processes,
                                   options.autoencoder_pictures, options.seed), options.processes)
    launch(train_base, (options.out, options.steps, 64 // options.processes, options.pairs, options.seed,
                        options.device), options.processes)
    write_card(options.out, vars(options), time.monotonic() - start)
    print(f"The base is in {options.out}. Train it with: python -m learner.main --editor.path {options.out}")


if __name__ == "__main__":
    main()
