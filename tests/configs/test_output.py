"""Standard streams that do not fail: readers that end, full disks, closed streams, letters that an encoding lacks."""

import ast
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TALKS = """
import os, sys
from pathlib import Path
from configs.output import protect_output
protect_output(always={always})
try:
    os.write(1, b"x")
    Path({file!r}).write_text("taken")
except OSError as error:
    Path({file!r}).write_text(type(error).__name__)
import structlog
from rich.console import Console
for _ in range(3):
    print("plain", flush=True)
    Console().print("[bold]rich[/bold]")
    structlog.get_logger().warning("logged")
    print("an error", file=sys.stderr)
sys.exit(7)
"""


def talk(file: Path, out, always: bool) -> int:
    code = TALKS.format(file=str(file), always=always)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=out, stderr=out).returncode


@pytest.mark.parametrize("always", [False, True])
def test_a_reader_that_has_ended_ends_nothing(tmp_path, always):
    read, write = os.pipe()
    os.close(read)
    try:
        assert talk(tmp_path / "witness", write, always) == 7
    finally:
        os.close(write)
    assert (tmp_path / "witness").read_text() == "BrokenPipeError"


def test_a_reader_that_has_stopped_to_read_holds_up_nothing():
    """As a pager does that shows its first page."""
    read, write = os.pipe()
    code = (
        "from configs.output import protect_output; protect_output(always=True)\n"
        "for number in range(30_000): print(f'line {number}', 'x' * 90)\n"
        "raise SystemExit(7)"
    )
    try:
        said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, timeout=300).returncode
        os.close(write)
        with open(read, "rb") as reader:
            lines = reader.read()
    finally:
        for number in (read, write):
            with suppress(OSError):
                os.close(number)
    assert said == 7 and lines.startswith(b"line 0 xxx") and 10_000 < len(lines) < 300_000


@pytest.mark.parametrize(("always", "code"), [(True, 7), (False, 1)])
def test_a_full_disk_ends_only_what_is_run_for_its_output(tmp_path, always, code):
    with Path("/dev/full").open("w") as full:
        # Where the output is the result, the interpreter says by its exit code that some of it is lost.
        assert (talk(tmp_path / "witness", full, always) == 7) == (code == 7)
    assert (tmp_path / "witness").read_text() == "OSError"


def test_a_file_never_takes_the_place_of_a_stream_that_was_closed(tmp_path):
    code = (
        "import os; from configs.output import protect_output; protect_output(); "
        f"file = open({str(tmp_path / 'events')!r}, 'wb', buffering=0); print('said'); os.write(2, b'said'); "
        "file.write(b'event')"
    )
    subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], cwd=ROOT, check=True)
    assert (tmp_path / "events").read_bytes() == b"event"


def commands() -> list[Path]:
    """Modules of the packages that are commands, as their last lines say."""
    found = [
        path
        for package in (
            "locus",
            "configs",
            "editing",
            "actors",
            "rewards",
            "learner",
            "evaluation",
            "cluster",
        )
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return [path for path in found if "sys.exit(main())" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", commands(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_protects_its_output_first(path):
    last = ast.parse(path.read_text(encoding="utf-8")).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
    assert ast.unparse(last.body[0]).startswith("protect_output(")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_terminal_lacks_are_replaced(encoding):
    code = (
        "import sys; from configs.output import protect_output; protect_output()\n"
        "import structlog; from rich.console import Console; from rich.table import Table\n"
        "table = Table('|ρ−1| ▁▂▃'); table.add_row('café 編集')\n"
        "print('ρ'); Console().print(table); structlog.get_logger().warning('ρ')\n"
        "print('ρ', file=sys.stderr); print('\\udcff')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        encoding=encoding,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert said.stdout.startswith("?\n") and "|??1| ???" in said.stdout and said.stdout.endswith("?\n")
    assert ("café ??" in said.stdout) == (encoding == "latin-1") and said.stderr == "?\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["learner.main", "--help"], 0, "--learner.optimizer.lr"),
        (["learner.main", "--folder", "ρ", "--dry-run"], 0, "# sha256 "),
        (["learner.main", "--learner.ρ", "1"], 2, "--learner.?: unknown key"),
        (["editing.validate", "café.jsonl"], 1, "caf?.jsonl"),
        (["cluster.scale", "café", "--rollout-workers", "1"], 2, "caf?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_work_on_a_terminal_without_letters(tmp_path, command, code, words):
    said = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        capture_output=True,
        encoding="ascii",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert said.returncode == code, said.stderr
    assert words in said.stdout + said.stderr and "Traceback" not in said.stderr
