"""The lines of a manifest as bytes, or an error about a file that is not JSONL."""

import json
import shlex
from pathlib import Path

from editing.task import TaskError

UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """(1-based number, text) of every line that is not blank.

    Raises:
        TaskError: unreadable; UTF-16; one JSON array or object over several lines, and then what to type.
    """
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}.") from error
    if content.startswith(UTF16):
        raise TaskError(f"{path} must be UTF-8; it is UTF-16. Save it as UTF-8.")
    lines = [(n, text) for n, text in enumerate(content.splitlines(), start=1) if text.strip()]
    if lines and not _is_object(lines[0][1]):
        _refuse_one_value(path, content)
    return lines


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _refuse_one_value(path: Path, content: bytes) -> None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return  # each of its lines is then reported as faulty
    if isinstance(value, list):
        raise TaskError(
            f"{path}: this is a JSON array; a manifest is JSONL, one object per line. Type: {_command(path)}"
        )
    if isinstance(value, dict):
        raise TaskError(
            f"{path}: this is one JSON object over several lines; a manifest is JSONL, one object per line. "
            "Write each task on a line of its own."
        )


def _command(path: Path) -> str:
    """A shell command that writes an array's entries line by line, beside it (paths are relative to its folder)."""
    code = "import json, sys; [print(json.dumps(line)) for line in json.load(open(sys.argv[1], 'rb'))]"
    lines = path.with_name(f"{path.stem}.lines.jsonl")
    return f'python -c "{code}" {shlex.quote(str(path))} > {shlex.quote(str(lines))}'
