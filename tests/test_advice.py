"""Commands and flags that sentences name: every one is typed here, or found to exist."""

import ast
import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cluster.scale import FILE, ScaleError, parsed
from cluster.scale import main as scale
from configs.commands import command, resume
from configs.edit_signal import check_edit_signal
from configs.load import ALLOW, SWITCHES, load_config, parse_command_line
from configs.schema import RunConfig
from configs.tree import find_field
from editing.shapes.pretrain import __main__ as pretrain
from editing.shapes.pretrain import making
from editing.validate import main as validate
from evaluation import photos
from learner.audit.report import main as audit
from learner.errors import RunFailed, RunRefused
from learner.infer import InferError, chosen, parser, task_of
from learner.main import how_to_resume
from learner.reporting.console import next_commands
from learner.state.event_log import EventError, read_events
from learner.state.run_dir import RunFolder
from tests.test_import_direction import MAY_IMPORT

ROOT = Path(__file__).parents[1]
SOURCES = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
OF_OTHERS = {  # vLLM, Ray, Docker, SLURM, nvidia-smi, the Hugging Face hub, and what stands for any flag
    "--served-model-name",
    "--max-model-len",
    "--tensor-parallel-size",
    "--tensor-parallel",
    "--pipeline-parallel",
    "--data-parallel",
    "--dtype",
    "--enforce-eager",
    "--no-enable-chunked-prefill",
    "--model",
    "--host",
    "--port",
    "--limit-mm-per-prompt",
    "--generation-config",
    "--allowed-media-domains",
    "--middleware",
    "--block-size",
    "--gpu-memory-utilization",
    "--default-chat-template-kwargs",
    "--object-store-memory",
    "--shm-size",
    "--generate",
    "--query-gpu",
    "--format",
    "--include",
    "--local-dir",
    "--section.key",
    "--flag",
    "--switch",
    "--signal",
    "--max",
}


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def options() -> set[str]:
    """Every option of a parser of ours."""
    calls = (
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    return {
        word.value
        for call in calls
        if call.func.attr == "add_argument"  # type: ignore[attr-defined]
        for word in call.args
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    }


def is_key(flag: str) -> bool:
    return find_field(flag.removeprefix("--").replace("-", "_").split("."))[0] is not None


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_flag_that_is_named_exists(package: str):
    known = {*options(), *(f"--{name}" for name in (*SWITCHES, ALLOW, "config", "help", "version"))} | OF_OTHERS
    named = {
        flag.rstrip(".-")
        for path in (ROOT / package).rglob("*.py")
        if path.parent.name != "gallery"  # names of colours in its style
        for node in strings(ast.parse(path.read_text(encoding="utf-8")))
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", node.value)
    }
    assert {flag for flag in named if flag not in known and not is_key(flag)} == set()


def test_every_module_that_is_named_can_be_run():
    for path in SOURCES:
        for module in re.findall(r"python -m ([\w.]+)", path.read_text(encoding="utf-8")):
            if module.split(".")[0] in MAY_IMPORT:
                assert importlib.util.find_spec(module) is not None, f"{path}: {module}"


def test_commands_with_names_of_files_in_them_are_made_by_the_one_function_that_quotes():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                for before, part in zip(node.values, node.values[1:], strict=False):
                    if isinstance(before, ast.Constant) and isinstance(part, ast.FormattedValue):
                        assert not re.search(r"python -m [\w.]+ [^;,()]*$", before.value), (
                            f"{path}, line {node.lineno}: use configs.commands.command for {ast.unparse(part)}"
                        )


def typed(sentence: str) -> list[str]:
    """The words of the command at the end of a sentence, as a shell reads them."""
    found = re.search(r"python -m [\w.]+ (.*)$", sentence, re.MULTILINE)
    assert found
    return shlex.split(found[1])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run leaves in a folder with blanks, before its first step."""
    config = RunConfig(name="r", folder=str(tmp_path / "my runs; of today"))
    RunFolder(config, resume=False).close()
    return Path(config.folder) / "r"


def test_what_resumes_a_run_resumes_that_run(run: Path):
    config = load_config(["--config", str(run / "config.yaml")])
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    with pytest.raises(RunRefused) as refused:
        RunFolder(config, resume=False)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InferError) as unfinished:
        chosen(parser().parse_args(["--run", str(run)]))
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    for sentence in (how_to_resume(config), str(refused.value), str(unfinished.value), resume(run)):
        request = parse_command_line(typed(sentence))
        assert request.resume and (request.config.name, request.config.folder) == ("r", str(run.parent))
        RunFolder(request.config, resume=True).close()


def test_a_copy_of_a_runs_configuration_continues_what_it_names_only_if_it_is_that_runs(run: Path, tmp_path):
    from learner.state.run_dir import continued_by_copy

    copy = tmp_path / "copies" / "x.yaml"
    copy.parent.mkdir()
    shutil.copy(run / "config.yaml", copy)
    longer = ["--config", str(copy), "--resume", "--learner.steps", "500"]
    request = parse_command_line(longer)
    assert request.copied is not None and str(run) in continued_by_copy(request.copied, request.config)

    shutil.move(run, run.parent / "kept")
    with pytest.raises(RunRefused, match=r"there is no .*config\.yaml"):
        continued_by_copy(request.copied, request.config)
    # Another one of that name: a resume may change the steps, so it would be continued as it never was.
    RunFolder(
        RunConfig.model_validate({"name": "r", "folder": str(run.parent), "learner": {"steps": 9}}), resume=False
    ).close()
    request = parse_command_line(longer)
    with pytest.raises(RunRefused, match=r"another one \(learner\.steps\).*Nothing was changed") as refused:
        continued_by_copy(request.copied, request.config)
    advised = parse_command_line(typed(str(refused.value)))
    assert advised.copied is None and (advised.config.name, advised.config.learner.steps) == ("r", 9)
    RunFolder(advised.config, resume=True).close()
    assert parse_command_line([*longer, "--name", "r"]).copied is None  # a flag says which one is meant
    copy.write_text(copy.read_text().replace("seed: 0", "seed: 5"))  # nor is an edited copy one
    assert parse_command_line(longer).copied is None


def test_a_run_in_use_does_not_advise_what_was_refused(run: Path, capsys):
    from learner.main import guarded

    config = load_config(["--config", str(run / "config.yaml")])
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    folder = RunFolder(config, resume=True)

    def again() -> None:
        RunFolder(config, resume=True)

    assert guarded(config, again) == 75
    folder.close()
    assert "wait for it or end it" in (said := capsys.readouterr().err) and "python -m" not in said


def test_a_finished_run_is_looked_at_by_what_is_told(run: Path):
    (run / "adapter").mkdir()
    summary = {"verdict": {"outcome": "trained"}, "final": {"mean": {"edit_psnr": 20.0}}, "notifications": []}
    words = typed(dict(next_commands(run, summary))["try it"])
    config, adapter = chosen(options := parser().parse_args(words))
    assert adapter == run / "adapter" and task_of(options, config).instruction
    without = config.model_copy(update={"data": config.data.model_copy(update={"held_out_tasks": 0})})
    with pytest.raises(InferError, match=r"holds out no tasks .* --source IMAGE"):
        task_of(options, without)
    told = dict(next_commands(run, {**summary, "final": {"mean": {}}}))
    assert "python -m" not in " ".join(told.values())


def test_a_file_for_the_number_of_workers_that_makes_no_sense_is_written_anew_by_what_is_told(run: Path):
    (run / "events.jsonl").touch()
    (run / FILE).write_text("5")
    with pytest.raises(ScaleError, match="is invalid") as refused:
        parsed(b"5", run / FILE)
    assert scale(typed(str(refused.value).partition(" (or another")[0])) == 0
    assert parsed((run / FILE).read_bytes(), run / FILE).rollout_workers == 2


def test_a_broken_event_log_is_named_line_by_line_by_what_is_told(run: Path, capsys):
    (run / "events.jsonl").write_text('{"seq": 0, "event": "a"}\n5\n')
    with pytest.raises(EventError, match="line 2 of the event log") as refused:
        list(read_events(run / "events.jsonl"))
    assert audit(typed(str(refused.value).partition(" names every")[0])) == 1
    assert "line 2" in capsys.readouterr().out


def test_a_manifest_whose_masks_look_suspicious_gets_a_sheet_by_what_is_told(tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "my data"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.new("RGB", (40, 30)).save(folder / "a.png", exif=turned.tobytes())
    mask = Image.new("L", (40, 30))
    mask.paste(255, (4, 4, 20, 20))
    mask.save(folder / "m.png")
    (folder / "m.jsonl").write_text('{"source": "a.png", "mask": "m.png", "instruction": "x"}')
    monkeypatch.chdir(tmp_path)
    assert validate([str(folder / "m.jsonl"), "--mask-polarity", "edit_is_white"]) == 0
    said = capsys.readouterr().out
    assert validate(typed(said.partition(", then open")[0])) == 0 and (tmp_path / "sheet.html").is_file()


def test_the_photos_are_trained_on_by_what_is_told(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(photos, "write_photos", lambda folder, side: (folder / "train.jsonl", folder / "held.jsonl"))
    assert photos.main([str(tmp_path / "my photos")]) == 0
    config = load_config(typed(capsys.readouterr().out))
    check_edit_signal(config)
    assert config.data.path == str(tmp_path / "my photos" / "train.jsonl")


def test_a_new_base_is_trained_by_what_is_told(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(making, "make_base", lambda out, recipe: None)
    assert pretrain.main(["--out", str(tmp_path / "my base")]) == 0
    config = load_config(typed(capsys.readouterr().out))
    check_edit_signal(config)
    assert config.editor.path == str(tmp_path / "my base")


def test_words_reach_the_command_as_they_are():
    words = ("a b", "it's", "$HOME", "*", "")
    assert shlex.split(command("learner.main", *words))[3:] == list(words)
    assert issubclass(RunRefused, RunFailed)
