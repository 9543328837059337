"""Make the embedded base editor: an autoencoder, then text encoders and transformer, in diffusers format.

    python -m editing.shapes.pretrain --out my_base            # about half an hour on two CPU cores
    python -m editing.shapes.pretrain --out my_base --device cuda

The base takes the place of OUT when it is whole; until then OUT stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from configs import exits
from configs.commands import command
from configs.output import protect_output
from configs.paths import path_argument
from editing.editors.load import BUILT_IN, resolve_editor
from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.recipe import MOST_PROCESSES, Recipe, default_processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the base and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m editing.shapes.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        default=resolve_editor(BUILT_IN),
        help="folder of the new base, diffusers format (default: the embedded one)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default 0)")
    parser.add_argument(
        "--processes",
        type=int,
        default=default_processes(),
        help=f"data-parallel processes (default: one per core, at most {MOST_PROCESSES})",
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the transformer")
    parser.add_argument("--autoencoder-steps", type=int, default=1500, help="0 keeps the one in OUT/vae (default 1500)")
    parser.add_argument("--autoencoder-images", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=2000, help="transformer steps (default 2000)")
    parser.add_argument("--pairs", type=int, default=8000, help="training pairs of the transformer (default 8000)")
    parser.add_argument("--scenes", type=int, default=512, help="validation scenes for the card's numbers")
    settings = vars(parser.parse_args(arguments))
    out = settings.pop("out")
    from editing.shapes.pretrain.making import make_base  # late: it loads diffusers, which --help need not wait for

    try:
        make_base(out, Recipe(**settings))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return exits.FAILED
    print(f"The base is in {out}. Train it with: {command('learner.main', '--editor.path', out)}")
    return exits.DONE


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
