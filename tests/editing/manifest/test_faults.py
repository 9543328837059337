import json
import re

import numpy as np
import pytest
from PIL import Image

from editing.manifest.faults import Fault, grouped
from editing.validate import main


def test_lines_that_are_faulty_in_the_same_way_are_one_sentence():
    faults = [
        Fault(n, f"my cat {n}", f"source must be a file; 'my cat {n}.png' is none under /data.") for n in range(2, 14)
    ]
    other = Fault(40, None, "the line must be one JSON object; Expecting value at column 1.")
    assert grouped([other, *faults]) == [
        "12 lines (2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more): source must be a file; 'my cat 2.png' is none under "
        "/data.",
        "line 40: the line must be one JSON object; Expecting value at column 1.",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unknown key 'split'; known are id.", "unknown key 'my group'; known are id."),
        ("unknown key 'split'; known are id.", 'unknown key "it\'s"; known are id.'),
        ("id must be one line, got 1.5.", "id must be one line, got {'a': 'b c'}."),
        ("/a/c.png has 3,000 bytes; at most 17 are read.", "/b/d.png has 99 bytes; at most 17 are read."),
        (
            "the line must be one object; Extra data at column 56.",
            "the line must be one object; Extra data at column 8.",
        ),
    ],
)
def test_quoted_text_numbers_and_paths_do_not_tell_kinds_apart(one, other):
    assert Fault(1, None, one).kind == Fault(2, None, other).kind != Fault(3, None, "another reason").kind


def test_reasons_beyond_ten_are_counted():
    faults = [Fault(n, None, "reason " + "x" * n) for n in range(1, 14)] + [Fault(20, None, "reason x")]
    sentences = grouped(faults)
    assert len(sentences) == 11 and sentences[-1] == "and 3 more lines for 3 other reasons"


def test_twenty_thousand_faulty_lines_are_a_few_lines_of_output(tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    lines = ['{"locus_manifest": 1, "mask_polarity": "edit_is_white"}'] + [
        json.dumps({"id": f"task {n}", "source": f"gone {n}.png", "mask": "m.png", "instruction": "x"})
        if n % 2
        else f'{{"id": {n}, "sauce": "a.png"}}'
        for n in range(20_000)
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines))
    assert main([str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and said[0] == "20000 faulty lines:"
    assert said[1].startswith("  10,000 lines (2, 4, 6, 8, 10, 12, 14, 16, 18, 20 and 9,990 more): ")
    assert "did you mean 'source'?" in said[1] and "'gone 1.png' is none under" in said[2]
    assert main([str(path), "--all-faults"]) == 1
    assert len(re.findall(r"^  line \d+ \(", capsys.readouterr().out, re.MULTILINE)) == 20_000
