"""The command that scores one edit, with real HTTP judges."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rewards import pixel
from rewards.score import main
from tests.judges.scripted import ScriptedServer
from tests.rewards.offline.edit_files import write_edits


@pytest.fixture
def files(tmp_path):
    write_edits(tmp_path, sources=1)
    return [
        "--source",
        str(tmp_path / "source_0.png"),
        "--edited",
        str(tmp_path / "edited_0_1.png"),
        "--mask",
        str(tmp_path / "mask.png"),
        "--instruction",
        "paint the box red",
    ]


def read(path):
    return np.asarray(Image.open(path))


def test_pixels_are_measured_without_any_judge(files, capsys):
    assert main([*files, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    source, edited, mask = read(files[1]), read(files[3])[None], read(files[5]) > 0
    scores = values["edited"][0]["scores"]
    assert list(scores) == ["background_psnr", "background_ssim"]
    assert scores["background_psnr"]["value"] == pixel.background_psnr(edited, source, mask).item()
    assert scores["background_ssim"]["value"] == pixel.background_ssim(edited, source, mask).item()
    assert values["mask_polarity"] == "edit_is_white"


def test_the_table_states_how_the_mask_was_read_and_what_is_left_out(files, capsys):
    assert main(files) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "white was to change (edit_is_white)" in text and " dB" in text
    assert "edit_score needs the ground truth of the embedded benchmark" in text


def test_polarity_turns_the_mask_round(files, capsys):
    assert main([*files, "--mask-polarity", "edit_is_black", "--json"]) == 0
    source, edited, mask = read(files[1]), read(files[3])[None], read(files[5]) > 0
    values = json.loads(capsys.readouterr().out)
    found = values["edited"][0]["scores"]["background_psnr"]["value"]
    assert found == pixel.background_psnr(edited, source, ~mask).item()
    assert main([*files, "--mask-polarity", "edit_is_black"]) == 0
    assert "black was to change (edit_is_black)" in " ".join(capsys.readouterr().out.split())


def test_a_target_adds_its_psnr(files, capsys):
    assert main([*files, "--target", files[3], "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["edited"][0]["scores"]["edit_psnr"]["value"] == pixel.PSNR_CAP


def test_judges_are_asked_and_their_passes_shown(files, tmp_path, capsys):
    edited = [str(tmp_path / f"edited_0_{n}.png") for n in (0, 2)]
    with ScriptedServer() as server:
        judge = [
            "--rewards.judge.editscore.urls",
            f"[{server.url}]",
            "--rewards.judge.editscore.passes",
            "3",
            "--rewards.judge.qwen_vl.urls",
            f"[{server.url}]",
        ]
        assert main([*files, "--edited", *edited, *judge, "--json"]) == 0
        captured = capsys.readouterr()
        assert f"Waiting for the judges at {server.url} for 600 s at most" in captured.err
        assert len(server.requests) == 3 * (3 * 2 + 1)
        values = json.loads(captured.out)
        assert [one["file"] for one in values["edited"]] == [files[3], *edited]
        score = values["edited"][0]["scores"]["editscore"]
        assert len(score["passes"]) == 3 and score["value"] == pytest.approx(np.mean(score["passes"]))
        assert main([*files, *judge]) == 0
    text = capsys.readouterr().out
    assert f"{np.std(score['passes'], ddof=1):.4f} of 3" in text and f"{score['value']:.4f}" in text


def test_a_component_without_a_value_is_an_error_and_exit_code_1(files, capsys):
    with ScriptedServer("garbage") as server:
        flags = ["--rewards.judge.editscore.urls", f"[{server.url}]"]
        assert main([*files, *flags, "--json"]) == 1
        scores = json.loads(capsys.readouterr().out)["edited"][0]["scores"]
        assert scores["editscore"]["value"] is None and "4 of 4 passes gave no score" in scores["editscore"]["error"]
        assert scores["editscore"]["reason"] == "bad_response" and scores["background_psnr"]["error"] is None
        assert main([*files, *flags]) == 1
        assert server.served("garbage") > 0
    assert "passes gave no score" in " ".join(capsys.readouterr().out.split())


def test_a_scorer_of_ones_own_is_asked(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_scorer_of_score.py").write_text(
        "def brightness(given):\n    return given.images.mean(axis=(1, 2, 3)) / 255\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = [
        "--rewards.scorers",
        "{brightness: 'own_scorer_of_score:brightness'}",
        "--rewards.weights",
        "{brightness: 1}",
        "--json",
    ]
    assert main([*files, *flags]) == 0
    values = json.loads(capsys.readouterr().out)["edited"][0]["scores"]
    assert values["brightness"]["value"] == pytest.approx(read(files[3]).mean() / 255)
    flags[1] = "{brightness: 'own_scorer_of_score:brightnes'}"
    assert main([*files, *flags]) == 2
    assert "rewards.scorers.brightness" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (["--source", "nope.png"], 2, "nope.png must be a file"),
        (
            [
                "--rewards.judge.editscore.serve.replicas",
                "1",
                "--rewards.judge.editscore.serve.path",
                "x",
                "--rewards.judge.editscore.serve.python",
                "/no/such/python",
                "--rewards.judge.editscore.serve.gpus",
                "0",
            ],
            1,
            "make judge",
        ),
        (["--rewards.judge.editscore.url", "x"], 2, "did you mean"),
        (
            ["--rewards.judge.editscore.urls", "[http://127.0.0.1:9/v1]", "--rewards.judge.patience", "1"],
            1,
            "1 of 1 servers did not respond to a test image",
        ),
    ],
)
def test_wrong_requests_are_sentences(files, capsys, change, code, sentence):
    assert main([*files, *change]) == code
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_without_mask_and_judge_there_is_nothing_to_measure(files, capsys):
    without = files[:4] + files[6:]
    assert main(without) == 2
    assert "there is nothing to measure: give a mask" in capsys.readouterr().err
    assert main([*without, "--target", files[3], "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["edited"][0]["scores"]) == ["edit_psnr"]


def test_the_command_line_itself(files):
    done = subprocess.run([sys.executable, "-m", "rewards.score", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "background_ssim" in done.stdout and done.stderr == ""
