import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from editing.manifest import ManifestDataset, ManifestError
from editing.task import TaskError
from editing.validate import main

HEIGHT, WIDTH = 20, 30
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[2:9, 3:12] = True
HEADER = {"locus_manifest": 1, "mask_polarity": "edit_is_white"}
LINE = {"source": "a.png", "mask": "m.png", "instruction": "make it red"}


def rle(mask):
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(map(int, packed["size"])), "counts": packed["counts"].decode()}


@pytest.fixture
def folder(tmp_path):
    """A data folder with one sound image a.png, its mask m.png and a target t.png."""
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(PIXELS).save(data / "a.png")
    Image.fromarray(PIXELS[::-1]).save(data / "t.png")
    Image.fromarray(MASK).save(data / "m.png")
    return data


def write(folder, *lines, header=HEADER):
    path = folder / "manifest.jsonl"
    rows = ([json.dumps(header)] if header else []) + [
        line if isinstance(line, str) else json.dumps(line) for line in lines
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def only_fault(folder, line, **arguments):
    """The reason why a line is skipped, beside two sound ones."""
    path = write(folder, LINE, line, LINE)
    dataset = ManifestDataset(path, max_faulty_fraction=0.5, **arguments)
    assert [item.record.line for item in dataset.items] == [2, 4]
    assert [fault.line for fault in dataset.faults] == [3]
    return dataset.faults[0].reason


def test_a_sound_manifest_gives_its_tasks_in_order(folder):
    second = {
        "id": 7,
        "source": "a.png",
        "mask_rle": rle(MASK),
        "instruction": "add a «hat»",
        "target": "t.png",
        "caption": "a hat",
        "mask_polarity": "edit_is_black",
    }
    dataset = ManifestDataset(write(folder, LINE, "", second))
    assert len(dataset) == 2 and not dataset.faults
    first, other = dataset[0], dataset[1]
    assert (first.task_id, first.instruction, first.caption, first.target) == (
        "line-2",
        "make it red",
        None,
        None,
    )
    assert np.array_equal(first.source, PIXELS) and np.array_equal(first.edit_mask, MASK)
    assert (other.task_id, other.instruction, other.caption) == ("7", "add a «hat»", "a hat")
    assert np.array_equal(other.edit_mask, ~MASK) and np.array_equal(other.target, PIXELS[::-1])
    assert other.meta == {"manifest_line": 4}
    for index in (-1, 2):
        with pytest.raises(IndexError, match="tasks 0 to 1"):
            dataset[index]


def test_the_polarity_may_come_from_the_argument_and_must_agree_with_the_header(folder):
    bare = write(folder, LINE, header=None)
    assert np.array_equal(ManifestDataset(bare, mask_polarity="edit_is_black")[0].edit_mask, ~MASK)
    with pytest.raises(ManifestError, match="expected edit_is_white or edit_is_black, got 'white'"):
        ManifestDataset(bare, mask_polarity="white")
    with pytest.raises(ManifestError, match=r"header says .*edit_is_white.* argument says edit_is_black"):
        ManifestDataset(write(folder, LINE), mask_polarity="edit_is_black")


def test_a_polarity_that_is_stated_nowhere_is_an_error(folder):
    with pytest.raises(ManifestError, match="mask_polarity is not stated: say edit_is_white or"):
        ManifestDataset(write(folder, LINE, header=None))


def test_an_inverted_polarity_is_asked_about(folder):
    small = np.zeros((HEIGHT, WIDTH), dtype=bool)
    small[3:6, 4:9] = True
    Image.fromarray(small).save(folder / "m.png")
    inverted = {**HEADER, "mask_polarity": "edit_is_black"}
    with pytest.raises(ManifestError, match=r"97\.5% of the median .*did you mean edit_is_white\?"):
        ManifestDataset(write(folder, LINE, header=inverted))
    with pytest.raises(ManifestError, match="did you mean edit_is_black"):
        ManifestDataset(write(folder, {**LINE, "mask": None, "mask_rle": rle(~small)}, header=HEADER))
    # Stated for the very line, it is meant.
    deliberate = write(folder, {**LINE, "mask_polarity": "edit_is_black"}, header=inverted)
    assert ManifestDataset(deliberate)[0].edit_mask.mean() == pytest.approx(0.975)


def test_a_mask_that_leaves_no_background_is_a_fault(folder):
    Image.new("1", (WIDTH, HEIGHT), 1).save(folder / "full.png")
    dataset = ManifestDataset(write(folder, LINE, {**LINE, "mask": "full.png"}), max_faulty_fraction=0.5)
    assert len(dataset) == 1
    assert [(fault.line, "nothing outside it to preserve" in fault.reason) for fault in dataset.faults] == [(3, True)]


def test_orientation_is_applied_before_sizes_are_compared(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(PIXELS))
    Image.fromarray(stored).save(folder / "phone.png", exif=exif.tobytes())
    dataset = ManifestDataset(write(folder, {**LINE, "source": "phone.png"}))
    assert np.array_equal(dataset[0].source, PIXELS)
    Image.fromarray(np.ascontiguousarray(np.rot90(MASK))).save(folder / "sideways.png")
    reason = only_fault(folder, {**LINE, "source": "phone.png", "mask": "sideways.png"})
    assert "size of the upright source, 30 × 20; it has 20 × 30" in reason


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "one JSON object; Expecting property name"),
        ("[1, 2]", "one JSON object; it is a list"),
        ('{"id": ' + "9" * 5000 + "}", "one JSON object; Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": 1, "id": 2}', "key 'id' must be unique; it appears 2 times"),
        ({"source": "a.png", "mask": "m.png"}, "'instruction' is missing"),
        ({"mask": "m.png", "instruction": "x"}, "'source' is missing"),
        ({"source": "a.png", "instruction": "x"}, "one of 'mask' and 'mask_rle', got neither"),
        ({**LINE, "mask_rle": {}}, "got both"),
        ({**LINE, "instuction": "x"}, "unknown key 'instuction'; did you mean 'instruction'?"),
        ({**LINE, "zzz": 1}, "unknown key 'zzz'; known are id, source"),
        ({**LINE, "instruction": " "}, "instruction: expected a non-empty text"),
        ({**LINE, "instruction": ["x"]}, "instruction: expected a non-empty text"),
        ({**LINE, "instruction": "\ud800"}, "half of a surrogate pair"),
        ({**LINE, "id": True}, "id: expected"),
        ({**LINE, "id": "a\nb"}, "id: expected"),
        ({**LINE, "caption": 3}, "caption: expected"),
        ({**LINE, "mask_polarity": "white"}, "mask_polarity: expected edit_is_white or edit_is_black"),
        ({**LINE, "mask_polarity": []}, "mask_polarity: expected"),
        ({**LINE, "source": "none.png"}, "'none.png' is none under"),
        ({**LINE, "source": "."}, "source must be a file"),
        ({**LINE, "source": "../outside.png"}, "source must stay inside the root"),
        ({**LINE, "source": "link.png"}, "'link.png' is a link to"),
        ({**LINE, "source": "loop.png"}, "source must be"),
        ({**LINE, "source": "/etc/hostname"}, "relative to the root"),
        ({**LINE, "source": "a\0.png"}, "usable path"),
        ({**LINE, "source": "a" * 5000}, "usable path"),
        ({"source": "a.png", "mask_rle": "P0", "instruction": "x"}, "mask_rle: expected an object"),
        (
            {"source": "a.png", "mask_rle": {"size": [9**9, 9**9], "counts": "P"}, "instruction": "x"},
            "that of the image, [20, 30]",
        ),
        (
            {"source": "a.png", "mask_rle": {"size": [20, 30], "counts": [599]}, "instruction": "x"},
            "add up to 599",
        ),
        (
            {"source": "a.png", "mask_rle": {"size": [20, 30], "counts": [600]}, "instruction": "x"},
            "no editable pixel",
        ),
    ],
)
def test_a_faulty_line_is_skipped_with_a_sentence(folder, line, says):
    shutil.copy(folder / "a.png", folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "loop.png").symlink_to("loop.png")
    assert says in only_fault(folder, line)


def save(path, image, kind="PNG", **options):
    image.save(path, kind, **options)


def truncated(path, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(PIXELS, (9, 9, 1))).save(buffer, kind)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


NASTY_SOURCES = {
    "truncated JPEG": (lambda p: truncated(p, "JPEG"), "source 'nasty' is damaged"),
    "truncated PNG": (lambda p: truncated(p, "PNG"), "source 'nasty' is damaged"),
    "truncated WebP": (lambda p: truncated(p, "WEBP"), "source 'nasty'"),
    "empty file": (lambda p: p.write_bytes(b""), "must be a PNG, JPEG or WebP"),
    "text": (lambda p: p.write_text("hello"), "must be a PNG, JPEG or WebP"),
    "SVG": (lambda p: p.write_text("<svg/>"), "must be a PNG, JPEG or WebP"),
    "GIF": (lambda p: save(p, Image.fromarray(PIXELS), "GIF"), "must be a PNG, JPEG or WebP"),
    "bomb": (lambda p: save(p, Image.new("1", (20_000, 20_000))), "at most 16,000,000 pixels"),
    "just too large": (lambda p: save(p, Image.new("1", (4_001, 4_000))), "4001 × 4000"),
    "animation": (
        lambda p: save(
            p,
            Image.fromarray(PIXELS),
            "WEBP",
            save_all=True,
            append_images=[Image.fromarray(PIXELS[::-1])],
        ),
        "animation",
    ),
    "another size": (lambda p: save(p, Image.new("RGB", (WIDTH, HEIGHT + 1))), "the mask must have the size"),
}
NASTY_MASKS = {
    "soft": (lambda p: save(p, Image.new("L", (WIDTH, HEIGHT), 128)), "100.0% of its pixels lie between"),
    "coloured": (lambda p: save(p, Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0))), "it has colours"),
    "labels": (lambda p: save(p, Image.new("L", (WIDTH, HEIGHT), 3)), "largest is 3"),
    "black": (lambda p: save(p, Image.new("L", (WIDTH, HEIGHT), 0)), "no editable pixel"),
    "JPEG": (lambda p: save(p, Image.fromarray(MASK).convert("L"), "JPEG"), "must be a PNG file"),
    "transparent": (lambda p: save(p, Image.new("RGBA", (WIDTH, HEIGHT), (255,) * 3 + (0,))), "transparent"),
    "another size": (lambda p: save(p, Image.new("1", (HEIGHT, WIDTH), 1)), "it has 20 × 30"),
}


@pytest.mark.parametrize("kind", NASTY_SOURCES)
def test_a_nasty_source_is_skipped_with_a_sentence(folder, kind):
    make, says = NASTY_SOURCES[kind]
    make(folder / "nasty")
    assert says in only_fault(folder, {**LINE, "source": "nasty"})


@pytest.mark.parametrize("kind", NASTY_MASKS)
def test_a_nasty_mask_is_skipped_with_a_sentence(folder, kind):
    make, says = NASTY_MASKS[kind]
    make(folder / "nasty")
    assert says in only_fault(folder, {**LINE, "mask": "nasty"})


def test_a_target_of_another_size_is_a_fault(folder):
    save(folder / "nasty", Image.new("RGB", (WIDTH + 1, HEIGHT)))
    assert "target: expected the size of the source" in only_fault(folder, {**LINE, "target": "nasty"})


def test_bytes_that_are_not_utf8_are_a_fault(folder):
    path = write(folder, LINE, LINE)
    path.write_bytes(path.read_bytes() + b'{"source": "\xff"}\n')
    dataset = ManifestDataset(path, max_faulty_fraction=0.5)
    assert "must be UTF-8; byte 13 is not" in dataset.faults[0].reason


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(folder):
    path = write(folder, LINE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(ManifestDataset(path)) == 1


def test_the_second_use_of_an_id_is_a_fault(folder):
    dataset = ManifestDataset(write(folder, {**LINE, "id": "x"}, {**LINE, "id": "x"}), max_faulty_fraction=0.5)
    assert len(dataset) == 1
    assert str(dataset.faults[0]) == "line 3 (x): ids must be unique; line 2 has the same."


def test_too_many_faults_stop_with_a_sentence_per_reason(folder):
    lines = [LINE] * 88 + [{**LINE, "source": f"none{n}"} for n in range(12)]
    path = write(folder, *lines)
    with pytest.raises(ManifestError) as caught:
        ManifestDataset(path, max_faulty_fraction=0.11)
    message = str(caught.value)
    assert "12 of 100 lines are faulty; at most 11.0% may be" in message
    assert message.splitlines()[1:] == [
        "  12 lines (90, 91, 92, 93, 94, 95, 96, 97, 98, 99 and 2 more): source must be a file; 'none0' is none under "
        f"{folder}."
    ]
    assert len(caught.value.faults) == 12
    assert len(ManifestDataset(path, max_faulty_fraction=0.12)) == 88


def test_no_valid_line_at_all_is_an_error_whatever_the_limit(folder):
    with pytest.raises(ManifestError, match="1 of 1 lines are faulty; at least one must be valid"):
        ManifestDataset(write(folder, {**LINE, "source": "none"}), max_faulty_fraction=1.0)
    with pytest.raises(ManifestError, match="0 of 0 lines"):
        ManifestDataset(write(folder))
    (folder / "empty.jsonl").write_text("\n \n")
    with pytest.raises(ManifestError, match="it is empty"):
        ManifestDataset(folder / "empty.jsonl")
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        ManifestDataset(folder / "absent.jsonl")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"locus_manifest": 2}, "locus_manifest: expected 1, the only version, got 2"),
        ({"locus_manifest": True}, "locus_manifest: expected 1"),
        ({**HEADER, "mask_polarty": "x"}, "line 1 .*did you mean 'mask_polarity'"),
        ({**HEADER, "mask_polarity": "white"}, "mask_polarity: expected"),
        ({**HEADER, "root": 3}, "root: expected"),
        ({**HEADER, "root": ".."}, "expected a folder inside the manifest's folder"),
        ({**HEADER, "root": "/"}, "expected a folder inside the manifest's folder"),
        ({**HEADER, "root": "none"}, "must be a folder"),
    ],
)
def test_a_wrong_header_is_an_error(folder, header, says):
    with pytest.raises(ManifestError, match=says):
        ManifestDataset(write(folder, LINE, header=header))


def test_paths_start_from_the_root_and_stay_in_it(folder):
    inner = folder / "inner"
    inner.mkdir()
    for name in ("a.png", "m.png"):
        shutil.copy(folder / name, inner / name)
    dataset = ManifestDataset(write(folder, LINE, header={**HEADER, "root": "inner"}))
    assert dataset.items[0].record.source == (inner / "a.png").resolve()
    elsewhere = folder.parent / "list.jsonl"
    shutil.copy(write(folder, LINE), elsewhere)
    assert len(ManifestDataset(elsewhere, root=folder)) == 1
    with pytest.raises(ManifestError, match="at least one must be valid"):
        ManifestDataset(elsewhere, root=folder.parent)


def test_a_file_that_changes_after_the_opening_is_an_error(folder):
    dataset = ManifestDataset(write(folder, {**LINE, "id": "x"}))
    Image.fromarray(PIXELS[:, ::-1]).save(folder / "a.png")
    with pytest.raises(TaskError, match=r"line 2 \(x\): source .* has changed since"):
        dataset[0]
    (folder / "a.png").unlink()
    with pytest.raises(TaskError, match="there is none"):
        dataset[0]


def test_the_fingerprint_follows_the_content_not_the_place(folder, tmp_path):
    path = write(folder, {**LINE, "id": "x"})
    first = ManifestDataset(path).fingerprint
    assert first == ManifestDataset(path).fingerprint and len(first) == 64
    shutil.copytree(folder, tmp_path / "copy")
    assert ManifestDataset(tmp_path / "copy" / "manifest.jsonl").fingerprint == first
    seen = {first}
    for change in ({"instruction": "other"}, {"id": "y"}, {"caption": "c"}, {"target": "t.png"}):
        seen.add(ManifestDataset(write(folder, {**LINE, "id": "x", **change})).fingerprint)
    black = {**HEADER, "mask_polarity": "edit_is_black"}
    seen.add(ManifestDataset(write(folder, {**LINE, "id": "x"}, header=black)).fingerprint)
    Image.fromarray(MASK[::-1]).save(folder / "m.png")
    seen.add(ManifestDataset(write(folder, {**LINE, "id": "x"})).fingerprint)
    assert len(seen) == 7


def test_the_command_says_what_it_found(folder, capsys):
    path = str(write(folder, *[LINE] * 30, {**LINE, "source": "[bold]none"}))
    assert main([path]) == 0
    said = capsys.readouterr().out
    assert "30 tasks" in said and "[bold]none" in said and "1 faulty line:\n  line 32: source must be" in said
    assert main([path, "--max-faulty-fraction", "0"]) == 1
    assert "1 of 31 lines are faulty" in " ".join(capsys.readouterr().out.split())
    assert main([path, "--mask-polarity", "edit_is_black"]) == 1
    assert "they must agree" in " ".join(capsys.readouterr().out.split())
