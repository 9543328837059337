"""`python -m editing.first_task [FLAGS OF A RUN]`: opens the tasks of a run, locates its editor, and reads one task.

Prints one line of JSON: how many tasks there are, and the identity and size of the one that was read. Exit code 1 and a
sentence when something cannot be had. The doctor runs it where the run will be: on every node of a cluster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from configs import exits
from configs.errors import ConfigError
from configs.load import load_config
from configs.output import protect_output
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.editors.base import EditorError
from editing.editors.load import resolve_editor
from editing.manifest import ManifestError
from editing.task import TaskError


def first_task(config: RunConfig) -> dict[str, Any]:
    """Counts of the run's tasks, and id, height and width of its first one.

    Raises:
        EditorError, ManifestError, TaskError: when the editor, the manifest or the task cannot be had here.
    """
    index = resolve_editor(config.editor.path) / "model_index.json"
    if not index.is_file():
        raise EditorError(
            f"editor.path: expected a model folder in diffusers format, but there is no "
            f"{index.resolve()}; download the model to this machine, or use a folder visible to all."
        )
    tasks = open_tasks(config)
    task = tasks.train[0]
    height, width = task.source.shape[:2]
    return {
        "train": len(tasks.train),
        "held_out": len(tasks.held_out),
        "id": task.task_id,
        "height": height,
        "width": width,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was read and return the exit code."""
    try:
        print(json.dumps(first_task(load_config(sys.argv[1:] if argv is None else list(argv)))))
    except (ConfigError, EditorError, ManifestError, TaskError) as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST if isinstance(error, ConfigError) else exits.FAILED
    return exits.DONE


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
