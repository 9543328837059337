"""Loading of an editor from a local model folder, by the pipeline that the folder names."""

import json
from pathlib import Path
from typing import Any

from editing.editors.base import Editor, EditorError
from editing.editors.folder import BUILT_IN, resolve_editor

__all__ = ["BUILT_IN", "load_editor", "resolve_editor"]


def load_editor(path: str | Path, **settings: Any) -> Editor:
    """The editor in a folder in diffusers format; `settings` go to that editor's `from_pretrained`.

    Raises:
        EditorError: when there is no such folder, or its pipeline is not one that Locus can drive.
    """
    path = resolve_editor(path)
    index = path / "model_index.json"
    if not index.is_file():
        raise EditorError(
            f"A model folder in diffusers format has a model_index.json, but there is no {index}. "
            "Download the model first and give its folder."
        )
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name == "FluxKontextPipeline":
        from editing.editors.flux_kontext import FluxKontextEditor

        return FluxKontextEditor.from_pretrained(path, **settings)
    raise EditorError(f"{index} names the pipeline {name!r}; editors exist for: FluxKontextPipeline.")
