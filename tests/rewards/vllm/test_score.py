"""Commands that score, with judge servers of their own."""

import json

from rewards.score import main
from tests.rewards.offline.edit_files import write_edits
from tests.rewards.vllm.conftest import gone_within, tree_pids


def test_a_judge_that_is_to_be_started_is_started_asked_and_ended(tmp_path, stand_in, capsys):
    write_edits(tmp_path, sources=1)
    files = [
        "--source",
        str(tmp_path / "source_0.png"),
        "--edited",
        str(tmp_path / "edited_0_1.png"),
        "--mask",
        str(tmp_path / "mask.png"),
        "--instruction",
        "paint the box red",
    ]
    serve = stand_in()
    flags = [
        word
        for key in ("path", "python", "gpus")
        for word in (f"--rewards.judge.editscore.serve.{key}", str(getattr(serve, key)))
    ]
    assert (
        main(
            [
                *files,
                *flags,
                "--rewards.judge.editscore.serve.replicas",
                "1",
                "--folder",
                str(tmp_path / "runs"),
                "--rewards.judge.editscore.serve.arguments",
                json.dumps(serve.arguments),
                "--json",
            ]
        )
        == 1
    )
    # The stand-in answers 4 to everything, which is no response to EditScore's requests.
    scores = json.loads(capsys.readouterr().out)["edited"][0]["scores"]
    assert scores["editscore"]["reason"] == "bad_response" and scores["background_psnr"]["error"] is None
    asked = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert sum(one["images"] for one in asked) >= 3 * 4
    assert gone_within(tree_pids(tmp_path / "pids"))
    assert list((tmp_path / "runs" / ".scoring" / "judges").iterdir())
