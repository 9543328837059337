"""Edits one image with a trained editor.

    python -m learner.infer --run runs/quickstart --compare
    python -m learner.infer --run runs/my_images --source cat.jpg --instruction "make the cat red" --output red.png

Without --source it edits one of the run's held-out tasks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PIL

from configs.commands import resume
from configs.errors import ConfigError
from configs.layers import Layers
from configs.output import protect_output
from configs.paths import path_argument
from configs.run_files import CONFIG
from configs.schema import EditorConfig, ManifestData, RunConfig
from configs.validate import validated
from editing.data import open_tasks, pixel_multiple
from editing.editors.base import EditorError
from editing.editors.load import BUILT_IN
from editing.editors.lora import AdapterError
from editing.images import decode_image, read_file
from editing.manifest import ManifestError
from editing.masks import POLARITIES, load_mask_png, to_edit_mask
from editing.resize import resize_task
from editing.shapes.scenes import SIZE
from editing.task import EditTask, Image, PixelMask, TaskError
from editing.trajectory import MessageError
from learner.quiet import quiet_libraries
from learner.reporting.gallery.observer import image_metrics
from learner.reporting.gallery.page import number
from learner.state.run_dir import ADAPTER

FULL_SIDE = 512  # of an editor of which no run is known
GAP = 6  # white pixels between the images of a comparison
READABLE = 256  # smaller images are enlarged by whole numbers up to this side in a comparison


class InferError(ValueError):
    """The request cannot be carried out; the sentence says what to change."""


@dataclass(frozen=True)
class Edited:
    """The images uint8 [H, W, 3] that were made of a task; `base` only where a comparison was asked for."""

    task: EditTask
    trained: Image
    base: Image | None
    seconds: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m learner.infer",
        description="Edit one image with a trained editor.",
        epilog="Without --source, a held-out task of the run is edited: a quick check of what was learnt.",
    )
    which = result.add_argument_group("which editor")
    which.add_argument("--run", type=path_argument, help="a run's folder (default runs/quickstart)")
    which.add_argument("--adapter", type=path_argument, help="an exported adapter's folder instead of a run's")
    which.add_argument(
        "--editor", type=path_argument, help="a diffusers folder, or `shapes`; with --adapter, or alone for the base"
    )
    what = result.add_argument_group("what to edit")
    what.add_argument("--source", type=path_argument, help="the image: PNG, JPEG or WebP")
    what.add_argument("--instruction", help="what to do, in words")
    what.add_argument("--mask", type=path_argument, help="black-and-white PNG; also report background preservation")
    what.add_argument(
        "--mask-polarity",
        choices=POLARITIES,
        default=POLARITIES[0],
        help="the colour of the mask that may change (default %(default)s)",
    )
    what.add_argument("--resolution", type=int, help="edit at about this many pixels squared (default: as trained)")
    what.add_argument("--task", type=int, default=0, help="which held-out task, without --source (default 0)")
    how = result.add_argument_group("how")
    how.add_argument("--steps", type=int, help="solver steps (default: the run's evaluation steps)")
    how.add_argument("--seed", type=int, default=0, help="of the initial noise (default 0)")
    how.add_argument("--guidance", type=float, help="embedded guidance (default: the run's)")
    how.add_argument("--device", help="cpu, cuda, cuda:1 or auto (default: the run's)")
    how.add_argument(
        "--output", type=path_argument, default=Path("edited.png"), help="PNG to write (default edited.png)"
    )
    how.add_argument(
        "--compare", action="store_true", help="also write OUTPUT_compare.png: source, base and trained side by side"
    )
    return result


def run_config(run: Path) -> RunConfig:
    """The configuration that a run was made with.

    Raises:
        InferError: when the folder holds no run.
        ConfigError: when this version cannot read its configuration.
    """
    path = run / CONFIG
    if not path.is_file():
        raise InferError(
            f"--run {run}: expected the folder of a run, but there is no {path}; train one with "
            "python -m learner.main, or give --adapter or --editor"
        )
    layers = Layers()
    layers.add_file(path)
    return validated(layers)


def chosen(options: argparse.Namespace) -> tuple[RunConfig, Path | None]:
    """The configuration to edit with, and the adapter's folder (None for the base alone)."""
    if options.run is not None and (options.adapter or options.editor):
        raise InferError("--run: expected either --run, or --adapter and --editor, but both are given")
    if options.adapter or options.editor:
        if options.editor is None:
            raise InferError("--editor: expected the editor that the adapter was trained on, for example shapes")
        config, adapter = RunConfig(editor=EditorConfig(path=str(options.editor))), options.adapter
    else:
        run = options.run or Path("runs/quickstart")
        config, adapter = run_config(run), run / ADAPTER
        if not adapter.is_dir():
            raise InferError(
                f"--run {run}: expected a finished run, but there is no {adapter}; continue it with {resume(run)}"
            )
    changed = {"guidance": options.guidance, "device": options.device}
    editor = config.editor.model_copy(update={key: value for key, value in changed.items() if value is not None})
    return config.model_copy(update={"editor": editor}), adapter


def task_of(options: argparse.Namespace, config: RunConfig) -> EditTask:
    """The task to edit: the given image and words, or one of the run's held-out tasks.

    Raises:
        InferError, TaskError: for files that are missing or do not fit.
    """
    if options.source is None:
        if options.instruction or options.mask:
            raise InferError("--source: expected an image, because --instruction or --mask is given")
        held_out = open_tasks(config).held_out
        if not held_out:
            raise InferError(
                "--source: expected an image, since the run holds out no tasks to edit; name one with "
                "--source IMAGE, and what to do with --instruction WORDS"
            )
        if not 0 <= options.task < len(held_out):
            raise InferError(f"--task {options.task}: expected one of the {len(held_out)} held-out tasks, 0 and up")
        return held_out[options.task]
    if not options.instruction:
        raise InferError('--instruction: expected what to do, for example --instruction "make the cat red"')
    source = decode_image(read_file(options.source), f"--source {options.source}")
    mask: PixelMask = np.ones(source.shape[:2], dtype=np.bool_)  # unknown: nothing is said to be background
    if options.mask is not None:
        mask = to_edit_mask(load_mask_png(options.mask), options.mask_polarity)
        if mask.shape != source.shape[:2]:
            raise InferError(
                f"--mask {options.mask}: expected the source's size, {source.shape[1]} × "
                f"{source.shape[0]}, got {mask.shape[1]} × {mask.shape[0]}"
            )
    task = EditTask(options.source.name, source, mask, options.instruction)
    return resize_task(task, options.resolution or trained_side(config), pixel_multiple(config.editor.path))


def trained_side(config: RunConfig) -> int | None:
    """About this side, squared, is the size in pixels that the editor was trained at; None is any size."""
    if isinstance(config.data, ManifestData):
        return config.data.resolution
    return SIZE if config.editor.path == BUILT_IN else FULL_SIDE


def edit(task: EditTask, config: RunConfig, adapter: Path | None, seed: int, steps: int, compare: bool) -> Edited:
    """Edits a task with the editor of `config` and the adapter, and for a comparison with the base alone.

    Raises:
        EditorError, AdapterError: when editor, adapter and task do not fit each other.
    """
    quiet_libraries()  # before the imports that would already warn
    from actors.rollout import sample
    from editing.editors.adapter_file import load_adapter
    from editing.editors.lora import without_adapter
    from editing.editors.policy import open_editor

    editor = open_editor(config.editor)
    if adapter is not None:
        load_adapter(editor.transformer, adapter)
    start = time.monotonic()
    trained = sample(editor, task, seed, steps, config.sampler.solver)
    seconds = time.monotonic() - start
    base = None
    if compare and adapter is not None:
        with without_adapter(editor.transformer):
            base = sample(editor, task, seed, steps, config.sampler.solver)
    return Edited(task, trained, base, seconds)


def side_by_side(panels: Sequence[Image]) -> Image:
    """uint8 images of one size next to each other with a white gap; small ones enlarged pixel by pixel."""
    height, width = panels[0].shape[:2]
    factor = max(1, READABLE // max(height, width))
    gap = np.full((height * factor, GAP, 3), 255, dtype=np.uint8)
    parts: list[Image] = []
    for panel in panels:
        parts += [gap, panel.repeat(factor, axis=0).repeat(factor, axis=1)]
    return np.concatenate(parts[1:], axis=1)


def save(image: Image, path: Path) -> None:
    """Writes a PNG.

    Raises:
        InferError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(image).save(path, "PNG")
    except OSError as error:
        raise InferError(f"--output {path}: expected a file that can be written, {error.strerror or error}") from error


def report(edited: Edited) -> list[str]:
    """What to say about the result, line by line."""
    task = edited.task
    lines = [f'"{task.instruction}"', f"{task.width} × {task.height} pixels in {edited.seconds:.1f} s"]
    after = image_metrics(task, edited.trained)
    before = {} if edited.base is None else image_metrics(task, edited.base)
    for name, value in after.items():
        lines.append(
            f"{name} {number(name, value)}" + (f"   (base {number(name, before[name])})" if name in before else "")
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """0 when the image was written, 1 when something was wrong with the request."""
    options = parser().parse_args(arguments)
    try:
        if options.output.suffix.lower() != ".png":
            raise InferError(f"--output {options.output}: expected a name that ends in .png")
        if options.seed < 0 or (options.steps is not None and options.steps < 1):
            raise InferError(
                f"expected --seed of at least 0 and --steps of at least 1, got {options.seed} and {options.steps}"
            )
        config, adapter = chosen(options)
        task = task_of(options, config)
        steps = options.steps or config.sampler.evaluation_steps
        edited = edit(task, config, adapter, options.seed, steps, options.compare)
        save(edited.trained, options.output)
        written = [str(options.output)]
        if options.compare:
            path = options.output.with_name(f"{options.output.stem}_compare.png")
            panels = [task.source, *([] if edited.base is None else [edited.base]), edited.trained]
            save(side_by_side(panels), path)
            written.append(f"{path}  (source, {'base, trained' if edited.base is not None else 'edited'})")
    except (InferError, ConfigError, TaskError, MessageError, EditorError, AdapterError, ManifestError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join([*report(edited), *written]))
    return 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
