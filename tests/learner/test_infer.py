"""One image through an editor and its adapter: the same image as the sampler's, and sentences for faults."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from actors.rollout import sample
from configs.load import load_config, to_yaml
from editing.editors.adapter_file import export_adapter
from editing.editors.load import load_editor
from editing.editors.lora import adapter_parameters, attach_lora
from editing.resize import resize_task
from editing.task import EditTask
from learner.infer import GAP, main, side_by_side


@pytest.fixture(scope="module")
def adapter(tiny_kontext: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that visibly changes what the tiny editor does."""
    editor = load_editor(tiny_kontext)
    attach_lora(editor.transformer, 4, 8.0, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(editor.transformer).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("adapter")
    export_adapter(editor.transformer, folder, {"run": "test"})
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    PIL.fromarray(image).save(tmp_path / "source.png")
    mask = np.zeros((21, 35), dtype=np.uint8)
    mask[5:15, 5:20] = 255
    PIL.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "source.png"


def read(path: Path) -> np.ndarray:
    return np.asarray(PIL.open(path).convert("RGB"))


def ask(tiny: Path, adapter: Path | None, source: Path, *more: str) -> list[str]:
    return [
        "--editor",
        str(tiny),
        *(["--adapter", str(adapter)] if adapter else []),
        "--source",
        str(source),
        "--instruction",
        "add a red circle",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--resolution",
        "24",
        "--output",
        str(source.parent / "out.png"),
        *more,
    ]


def test_it_is_the_samplers_image_and_compare_shows_the_base(
    tiny_kontext: Path, adapter: Path, source: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(ask(tiny_kontext, adapter, source, "--seed", "5", "--compare")) == 0
    mask = np.ones((21, 35), dtype=bool)
    task = resize_task(EditTask("t", read(source), mask, "add a red circle"), 24, 8)
    editor = load_editor(tiny_kontext)
    base = sample(editor, task, 5, 2, "euler")
    from editing.editors.adapter_file import load_adapter

    load_adapter(editor.transformer, adapter)
    trained = sample(editor, task, 5, 2, "euler")
    assert (base != trained).any()
    np.testing.assert_array_equal(read(source.parent / "out.png"), trained)
    np.testing.assert_array_equal(read(source.parent / "out_compare.png"), side_by_side([task.source, base, trained]))
    printed = capsys.readouterr().out
    assert f"{task.width} × {task.height} pixels" in printed and "(source, base, trained)" in printed
    assert "background_psnr" not in printed  # nothing was said to be background


def test_a_mask_reports_the_background(tiny_kontext, adapter, source, capsys):
    assert main(ask(tiny_kontext, adapter, source, "--mask", str(source.parent / "mask.png"))) == 0
    first = capsys.readouterr().out
    assert "background_psnr " in first and " dB" in first
    assert (
        main(
            ask(
                tiny_kontext,
                adapter,
                source,
                "--mask",
                str(source.parent / "mask.png"),
                "--mask-polarity",
                "edit_is_black",
            )
        )
        == 0
    )
    assert capsys.readouterr().out != first


def test_the_base_alone(tiny_kontext, source, capsys):
    assert main(ask(tiny_kontext, None, source, "--compare")) == 0
    assert "(source, edited)" in capsys.readouterr().out


def test_a_runs_folder_brings_its_editor_settings_and_held_out_tasks(
    tiny_kontext, adapter, tmp_path, source, capsys, monkeypatch
):
    lines = "\n".join(
        f'{{"id": "{i}", "source": "source.png", "mask": "mask.png", "instruction": "make it blue"}}' for i in "ab"
    )
    (tmp_path / "m.jsonl").write_text(lines)
    config = load_config(
        [
            "--data.type",
            "manifest",
            "--data.path",
            str(tmp_path / "m.jsonl"),
            "--data.resolution",
            "24",
            "--data.mask-polarity",
            "edit_is_white",
            "--rewards.weights",
            "{background_psnr: 1}",
            "--algorithm.preservation.velocity_weight",
            "1",
            "--editor.path",
            str(tiny_kontext),
            "--sampler.evaluation-steps",
            "2",
        ]
    )
    run = tmp_path / "runs" / "quickstart"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1  # the default run, not finished yet
    assert "there is no runs/quickstart/adapter" in capsys.readouterr().err
    (run / "adapter").symlink_to(adapter)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert '"make it blue"' in printed and "background_psnr" in printed and read(tmp_path / "edited.png").any()
    assert main(["--task", "1"]) == 1
    assert "--task 1: expected one of the 1 held-out tasks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--source", "gone.png"], "gone.png must be a file; there is none."),
        (["--instruction", ""], "--instruction: expected what to do"),
        (["--output", "out.jpg"], "--output out.jpg: expected a name that ends in .png"),
        (["--steps", "0"], "--steps of at least 1"),
        (["--adapter", "nowhere"], "there is no nowhere"),
        (["--editor", "nowhere"], "expected a model folder in diffusers format"),
        (["--run", "runs/x"], "either --run, or --adapter and --editor"),
        (["--device", "cuda:99"], "editor.device: expected a device of this process, got cuda:99"),
        (["--device", "toaster"], "editor.device: expected cpu, cuda, cuda:1 or auto"),
    ],
)
def test_faults_are_sentences(tiny_kontext, adapter, source, capsys, change, sentence):
    assert main(ask(tiny_kontext, adapter, source, *change)) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is no runs/quickstart/config.yaml; train one with python -m learner.main"),
        (["--run", "runs/x"], "there is no runs/x/config.yaml"),
        (["--adapter", "a"], "--editor: expected the editor that the adapter was trained on"),
        (["--editor", "shapes", "--instruction", "x"], "--source: expected an image"),
    ],
)
def test_faults_without_an_image(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_a_mask_of_another_size_is_refused(tiny_kontext, adapter, source, capsys):
    PIL.fromarray(np.full((9, 9), 255, np.uint8)).save(source.parent / "small.png")
    assert main(ask(tiny_kontext, adapter, source, "--mask", str(source.parent / "small.png"))) == 1
    assert "expected the source's size, 35 × 21, got 9 × 9" in capsys.readouterr().err


def test_small_images_are_enlarged_by_whole_numbers():
    images = [np.full((64, 48, 3), value, np.uint8) for value in (10, 20, 30)]
    shown = side_by_side(images)
    assert shown.shape == (256, 3 * 192 + 2 * GAP, 3)
    assert [int(shown[0, x, 0]) for x in (0, 192, 192 + GAP, 575 + 2 * GAP)] == [10, 255, 20, 30]
    large = [np.zeros((300, 500, 3), np.uint8)] * 2
    assert side_by_side(large).shape == (300, 1000 + GAP, 3)
