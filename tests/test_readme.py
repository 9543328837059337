"""README and the pages behind it: their commands exist, their tables name what is there, and their code runs.

Where their links lead is looked at in `test_links.py`."""

import asyncio
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.supervise.__main__ import checked
from configs.edit_signal import check_edit_signal
from configs.layers import preset_names
from configs.load import load_config, parse_command_line
from editing.task import EditTask
from learner.infer import parser
from rewards import calibrate, score
from rewards.offline.edits import read_manifest
from rewards.open import open_pool
from rewards.scorer_api import ScoreInput
from rewards.service.__main__ import main as service
from tests.documents import PAGES, README, ROOT, page, text_of
from tests.rewards.offline.edit_files import write_edits
from tests.rewards.service.running import serving
from tests.test_import_direction import LAYERS, MAY_IMPORT

TEXT = text_of(*PAGES)
REWARDS = page("docs/rewards.md")
LONGEST_README = 200


def commands() -> list[list[str]]:
    """Every command line in the pages' bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def python_commands() -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m`."""
    return [(words[2], words[3:]) for words in commands() if words[0].endswith("python") and words[1] == "-m"]


def test_there_are_commands_to_check():
    assert {module for module, _ in python_commands()} >= {"learner.main", "learner.infer", "editing.validate"}


@pytest.mark.parametrize(("module", "arguments"), python_commands(), ids=lambda value: str(value)[:40])
def test_every_command_is_one(module: str, arguments: list[str], tmp_path: Path):
    assert importlib.util.find_spec(module) is not None
    if module == "learner.infer":
        parser().parse_args(arguments)
    elif module in ("rewards.score", "rewards.calibrate"):
        command = score if module == "rewards.score" else calibrate
        load_config(command.parser().parse_known_args(arguments)[1])
    elif module == "rewards.service":
        assert service([*arguments, "--dry-run"]) == 0
    elif module == "learner.main" and "--help" not in arguments:
        # A config in a run folder stands for one that a run has written.
        (tmp_path / "config.yaml").write_text("name: quickstart\n")
        known = [str(tmp_path / "config.yaml") if word.startswith("runs/") else word for word in arguments]
        check_edit_signal(parse_command_line(known).config)
    elif module == "cluster.doctor":
        parse_command_line(arguments)
    elif module == "cluster.supervise":
        checked(arguments[arguments.index("--") + 1 :])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words[1] for words in commands() if words[0] == "make"} | set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert "quickstart" in targets and "test" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_preset_is_in_the_table():
    table = page("docs/training.md").partition("| preset | |")[2].partition("\n\n")[0]
    for name in preset_names():
        assert f"`{name}`" in table


def test_named_files_exist():
    named = set(re.findall(rf"`((?:{'|'.join((*MAY_IMPORT, 'tests'))})/[\w./]*)`", TEXT))
    assert {"configs/presets/my_images.yaml", "learner/backends/ray.py"} <= named
    for path in named:
        assert (ROOT / path).exists(), path


def test_readme_is_short_and_leads_to_every_other_page():
    text = text_of(README)
    assert len(text.splitlines()) <= LONGEST_README
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)}
    assert set(PAGES) - {README} <= linked


def test_every_package_is_in_the_layout_table():
    table = page("ARCHITECTURE.md").partition("## Where things are")[2]
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert {name for name in packages if f"| `{name}` |" not in table} == set()


def test_the_rooms_of_the_learner_are_drawn_as_they_lie():
    drawing = next(block for block in blocks("text") if "algorithms" in block)
    rooms = [line.partition("  ")[0] for line in drawing.splitlines()]
    assert [set(re.findall(r"\w+", line)) for line in rooms] == list(reversed(LAYERS))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def code_with(words: str) -> str:
    (found,) = (block for block in blocks("python") if words in block)
    return found


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in block.splitlines())


def test_the_scorer_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    block = code_with("def sharpness")
    assert lines_of_code(block) < 20
    (tmp_path / "my_scorers.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = (words for module, words in python_commands() if "my_scorers:sharpness" in words)
    smooth = np.broadcast_to(np.arange(100, 132, dtype=np.uint8)[:, None], (24, 32, 3)).copy()
    task = EditTask("a", smooth, np.ones((24, 32), dtype=bool), "sharpen it")
    images = np.stack([smooth, smooth + (np.arange(32) % 2 * 50).astype(np.uint8)[:, None], np.full_like(smooth, 9)])

    async def scored():
        pool = open_pool(load_config([*command, "--rewards.weights", "{sharpness: 1}"]), tasks=None)
        try:
            return (await pool.score_task(task, images))["sharpness"]
        finally:
            await pool.close()

    # Steps of 1 from pixel to pixel; of 51 and -49 in turn; of 0.
    values = [one.value for one in asyncio.run(scored())]
    assert values == pytest.approx([0, (16 * 51 + 15 * 49) / 31 / 255 - 1 / 255, -1 / 255])


def test_the_client_gets_a_response():
    block = code_with("def locus_reward")
    assert lines_of_code(block) <= 12
    names: dict[str, object] = {}
    with serving() as (client, pool):
        assert "http://127.0.0.1:8460" in block
        exec(block.replace("http://127.0.0.1:8460", client.url), names)
        source = np.full((24, 32, 3), 90, np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        mask[5:9, 5:20] = 255
        candidates = [Image.fromarray(np.full_like(source, grey)) for grey in (0, 60, 200)]
        metadata = [{"source": Image.fromarray(source), "mask": Image.fromarray(mask)}] * 3
        rewards, more = names["locus_reward"](candidates, ["paint it red"] * 3, metadata)
    # `brightness` gives a black image an error, the others 0.1 of their grey level and 2 times 0.5.
    assert rewards == [None, pytest.approx(7.0), pytest.approx(21.0)] and more == {}
    assert pool.asked[0][0].edit_mask.sum() == 4 * 15 and pool.asked[0][0].instruction == "paint it red"


def test_the_default_port_of_the_service_is_the_one_that_is_named():
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)/(?:docs|v1/score)", TEXT)) == {str(load_config([]).service.port)}


def test_manifest_lines_with_edits_are_read(tmp_path: Path):
    (lines,) = (block for block in blocks("json") if '"edited"' in block)
    fields = json.loads(lines.splitlines()[-1])
    write_edits(tmp_path, sources=1, candidates=2)
    for name, file in (
        (fields["source"], "source_0.png"),
        (fields["mask"], "mask.png"),
        *zip(fields["edited"], ("edited_0_0.png", "edited_0_1.png"), strict=True),
    ):
        (tmp_path / file).rename(tmp_path / name)
    (tmp_path / "manifest.jsonl").write_text(lines)
    (files,) = read_manifest(tmp_path, None)  # as the commands do without --mask-polarity
    assert isinstance(ScoreInput(*files.load(), None), ScoreInput) and len(files.edited) == 2


def test_the_secrets_are_those_that_the_code_reads():
    named = set(re.findall(r"\bLOCUS_[A-Z_]+\b", TEXT))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rewards").rglob("*.py"))
    assert named == set(re.findall(r'"(LOCUS_[A-Z_]+[A-Z])"', code))


def test_the_reward_with_a_judge_is_the_one_that_is_told():
    config = load_config(["--rewards.judge.qwen_vl.urls", "[http://127.0.0.1:8000/v1]"]).rewards
    assert config.weights["qwen_vl"] == 1 and config.normalisation == "pooled"
    assert f"the judge and {config.weights['background_psnr']:g} of background PSNR" in REWARDS
    assert f"When {config.judge.max_unanswered} requests in a row" in REWARDS and config.judge.max_bad_answers == 0.25
    assert f"`passes` ({config.judge.editscore.passes})" in REWARDS
