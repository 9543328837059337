"""The policy of a run: the configured editor with its adapter, identical in every process that opens it."""

from __future__ import annotations

import torch

from configs.schema import EditorConfig, LoraConfig
from editing.editors.base import Editor, EditorError
from editing.editors.folder import TARGETS
from editing.editors.load import load_editor
from editing.editors.lora import AdapterError, attach_lora


def open_policy(settings: EditorConfig, seed: int) -> Editor:
    """The configured editor with the adapter of version 0: a fresh one that changes nothing yet, or that of
    `editor.lora.start`.

    A fresh adapter is drawn from `seed`, the run's, so that workers and learner hold the same version 0.

    Raises:
        EditorError: when there is no such editor, no such device, or no such adapter.
    """
    editor = open_editor(settings)
    attach_adapter(editor, settings.lora, seed)
    return editor


def attach_adapter(editor: Editor, lora: LoraConfig, seed: int) -> None:
    """Adds the configured adapter to an editor that has none.

    Raises:
        EditorError: when the adapter to start from is not there, or is of another rank or other targets.
    """
    attach_lora(editor.transformer, lora.rank, lora.alpha, seed, TARGETS[lora.targets])
    if lora.start is None:
        return
    from editing.editors.adapter_file import load_adapter  # needs diffusers

    try:
        load_adapter(editor.transformer, lora.start)
    except AdapterError as error:
        raise EditorError(
            f"editor.lora.start: expected an adapter that was exported with editor.lora.rank {lora.rank} and "
            f"editor.lora.targets {lora.targets}. {error}"
        ) from error


def open_editor(settings: EditorConfig) -> Editor:
    """The configured editor without an adapter.

    Raises:
        EditorError: when there is no such editor, or no such device.
    """
    return load_editor(
        settings.path,
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype],
        device=pick_device(settings.device),
        guidance=settings.guidance,
        max_text_tokens=settings.max_text_tokens,
        micro_batch=settings.micro_batch,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def pick_device(name: str, key: str = "editor.device") -> torch.device:
    """The device named by configuration key `key`; `auto` is this process's GPU, or else the CPU.

    Raises:
        EditorError: for a name that is no device, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EditorError(f"{key}: expected cpu, cuda, cuda:1 or auto, got {name!r}.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EditorError(
            f"{key}: expected a device of this process, got {name} with {torch.cuda.device_count()} GPUs visible; "
            f"set {key} to cpu or auto."
        )
    return device
