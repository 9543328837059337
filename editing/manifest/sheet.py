"""A contact sheet to inspect before training: every mask drawn on its image, in one HTML file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PIL

from editing.manifest.dataset import CheckedRecord, ManifestDataset
from editing.manifest.notes import SUSPICIOUS
from editing.resize import resize_task
from editing.task import EditTask, TaskError

TASKS = 60
SIDE = 240
STYLE = """body{font:14px system-ui,sans-serif;margin:16px;background:#fafafa;color:#222}
main{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:260px}img{max-width:100%}
figcaption{overflow-wrap:anywhere}b{color:#b00020}"""


def write_sheet(dataset: ManifestDataset, path: Path, tasks: int = TASKS) -> int:
    """Write the sheet and return the number of tasks on it: suspicious ones first, the rest evenly spread.

    What may change is outlined in red, and everything else is faded to gray.
    """
    shown = chosen(dataset.items, tasks)
    figures = "\n".join(_figure(dataset, index) for index in shown)
    title = html.escape(f"{dataset.path.name}: {len(shown)} of {len(dataset)} tasks")
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        f"<h1>{title}</h1><p>Outlined in red: what may change. Everything else is faded.</p>\n"
        f"<main>\n{figures}\n</main></html>\n",
        encoding="utf-8",
    )
    return len(shown)


def chosen(items: Sequence[CheckedRecord], tasks: int) -> list[int]:
    """Indices of the tasks to show: up to half suspicious ones, then those with other notes, then others; in order.

    Of more than fit of a kind, evenly spread ones.
    """
    suspicious = [i for i, item in enumerate(items) if set(item.notes) & set(SUSPICIOUS)]
    noted = [i for i, item in enumerate(items) if item.notes and i not in set(suspicious)]
    plain = [i for i, item in enumerate(items) if not item.notes]
    taken: list[int] = []
    for kind, room in ((suspicious, tasks // 2), (noted, tasks // 4), (plain, tasks)):
        taken += _spread(kind, min(room, tasks - len(taken)))
    return taken + _spread([i for i in range(len(items)) if i not in set(taken)], tasks - len(taken))


def _spread(indices: Sequence[int], count: int) -> list[int]:
    count = min(count, len(indices))
    return [indices[position * len(indices) // count] for position in range(count)]


def _figure(dataset: ManifestDataset, index: int) -> str:
    item = dataset.items[index]
    notes = "".join(f"<br><b>{note}</b>" if note in SUSPICIOUS else f"<br>{note}" for note in item.notes)
    try:
        image = f'<img alt="" src="data:image/jpeg;base64,{_jpeg(overlay(dataset[index]))}">'
    except TaskError as error:
        image = f"<p>{html.escape(str(error))}</p>"
    name = html.escape(f"line {item.record.line} · {item.record.task_id} · {item.editable:.1%} editable")
    return f"<figure>{image}<figcaption>{name}<br>{html.escape(item.record.instruction)}{notes}</figcaption></figure>"


def overlay(task: EditTask) -> PIL.Image:
    """The image at about `SIDE`² pixels: faded outside the mask, its outline red."""
    small = resize_task(task, SIDE, 1)
    mask = small.edit_mask
    pixels = small.source.astype(np.float32)
    gray = pixels.mean(axis=2, keepdims=True)
    pixels = np.where(mask[..., None], pixels, 0.35 * gray + 0.65 * 235)
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels[mask & ~inner] = (220, 0, 30)
    return PIL.fromarray(pixels.astype(np.uint8))


def _jpeg(image: PIL.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
