import unicodedata

import pytest

from editing.manifest.paths import Root
from editing.task import TaskError

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(("there", "asked"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_is_found_in_another_normal_form(tmp_path, there, asked):
    touch(tmp_path / there / f"{there} 1.png", tmp_path / "other.png")
    assert not (tmp_path / asked).exists()  # a file system that keeps the two apart
    found = Root(tmp_path).file("source", f"{asked}/{asked} 1.png")
    assert found == tmp_path / there / f"{there} 1.png"


def test_the_exact_name_is_taken_where_both_are_there(tmp_path):
    touch(tmp_path / f"{NFC}.png", tmp_path / f"{NFD}.png")
    root = Root(tmp_path)
    assert [root.file("source", f"{name}.png").name for name in (NFC, NFD)] == [f"{NFC}.png", f"{NFD}.png"]


def test_two_names_that_both_look_like_it_are_not_chosen_between(tmp_path):
    twice = [f"{NFC}{NFD}.png", f"{NFD}{NFC}.png"]
    touch(*(tmp_path / name for name in twice))
    with pytest.raises(TaskError, match=r"looks like 2 names in .* that differ in their Unicode normal form only"):
        Root(tmp_path).file("source", f"{NFC}{NFC}.png")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("A/B.PNG", "A/b.png"), ("a\\b.png", ""), ("A\\b.png", "A/b.png"), (" A/b.png ", "A/b.png"), ("A/c.png", "")],
)
def test_a_name_that_is_not_there_says_which_was_probably_meant(tmp_path, asked, meant):
    touch(tmp_path / "A" / "b.png")
    with pytest.raises(TaskError, match="source must be a file") as caught:
        Root(tmp_path).file("source", asked)
    assert str(caught.value).endswith(f"; did you mean '{meant}'?" if meant else f"is none under {tmp_path}.")


def test_nothing_outside_the_root_is_found_or_listed(tmp_path):
    touch(tmp_path / "outside" / f"{NFD}.png", tmp_path / "Secret.png")
    (tmp_path / "root").mkdir()
    for asked in (f"../outside/{NFC}.png", f"../outside/{NFD}.png", "../secret.png"):
        with pytest.raises(TaskError, match="must stay inside the root") as caught:
            Root(tmp_path / "root").file("source", asked)
        assert "did you mean" not in str(caught.value)
