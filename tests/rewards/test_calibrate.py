"""The command on a folder of edits, with real HTTP judges."""

import json

from rewards.calibrate import main
from tests.judges.scripted import ScriptedServer
from tests.rewards.offline.edit_files import write_edits


def test_images_alone_can_be_calibrated_on(tmp_path, capsys):
    write_edits(tmp_path)
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "12 edits of 3 sources" in text and "background_psnr, background_ssim" in text
    assert "Not measured: edit_score needs the ground truth" in text


def test_two_judges_are_compared(tmp_path, capsys):
    write_edits(tmp_path)
    with ScriptedServer() as editscore, ScriptedServer() as qwen:
        assert (
            main(
                [
                    str(tmp_path),
                    "--json",
                    "--rewards.judge.editscore.urls",
                    f"[{editscore.url}]",
                    "--rewards.judge.qwen_vl.urls",
                    f"[{qwen.url}]",
                    "--rewards.judge.editscore.passes",
                    "3",
                ]
            )
            == 0
        )
        # Two requests a pass for every edit, a request for every edit; nothing twice.
        assert len(editscore.requests) == 12 * 3 * 2 and len(qwen.requests) == 12
    values = json.loads(capsys.readouterr().out)
    judge = values["components"]["editscore"]
    assert judge["edits"] == 12 and judge["passes"] == 3 and judge["noise"] > 0
    assert values["components"]["qwen_vl"]["noise"] is None
    pair = values["agreement"][0]
    assert pair["components"] == ["editscore", "qwen_vl"] and pair["pairs"] > 0 and -1 <= pair["kendall"] <= 1


def test_a_constant_judge_has_no_signal(tmp_path, capsys):
    write_edits(tmp_path)
    with ScriptedServer("constant") as server:
        assert main([str(tmp_path), "--rewards.judge.editscore.urls", f"[{server.url}]"]) == 0
        assert server.served("constant") == 12 * 4 * 2
    assert "editscore: no signal" in capsys.readouterr().out


def test_errors_are_shown_and_a_judge_without_any_value_is_a_failure(tmp_path, capsys):
    write_edits(tmp_path)
    with ScriptedServer("garbage") as server:
        flags = ["--rewards.judge.editscore.urls", f"[{server.url}]", "--rewards.judge.editscore.passes", "1"]
        assert main([str(tmp_path), *flags, "--rewards.judge.max_bad_answers", "1.0"]) == 1
        assert server.served("garbage") >= 12
    out = capsys.readouterr().out
    assert "12 of 12 have no editscore; the first: editscore: candidate 0" in " ".join(out.split())


def test_a_judge_that_breaks_the_limits_ends_in_a_sentence(tmp_path, capsys):
    write_edits(tmp_path, sources=4, candidates=8)
    with ScriptedServer("garbage") as server:
        assert main([str(tmp_path), "--rewards.judge.editscore.urls", f"[{server.url}]"]) == 1
        assert server.served("garbage") > 0
    captured = capsys.readouterr()
    assert captured.out == "" and "max_bad_answers" in captured.err and "Traceback" not in captured.err


def test_wrong_requests_are_sentences(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "manifest.jsonl cannot be read" in capsys.readouterr().err
    write_edits(tmp_path)
    assert main([str(tmp_path), "--rewards.judge.editscor.urls", "[]"]) == 2
    assert "did you mean" in capsys.readouterr().err
