"""A folder is replaced as a whole, or stays as it was."""

import pytest

from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.replacing import replaced


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model").write_text("old")
    return folder


def make(folder) -> None:
    with replaced(folder, ["model"]) as new:
        assert list(new.iterdir()) == []
        (new / "model").write_text("new")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_folder_appears_when_it_is_whole(tmp_path, old):
    with replaced(old, ["model"]) as new:
        (new / "model").write_text("new")
        assert (old / "model").read_text() == "old"
    assert (old / "model").read_text() == "new" and names(tmp_path) == ["base"]
    make(tmp_path / "deep" / "first")
    assert (tmp_path / "deep" / "first" / "model").read_text() == "new"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RecipeError, OSError])
def test_an_interruption_leaves_the_old_one(tmp_path, old, interruption):
    with pytest.raises(interruption), replaced(old, ["model"]) as new:
        (new / "model").write_text("half")
        raise interruption
    assert (old / "model").read_text() == "old" and names(tmp_path) == ["base"]


def test_a_link_is_followed(tmp_path, old):
    (tmp_path / "link").symlink_to(old)
    make(tmp_path / "link")
    assert (old / "model").read_text() == "new" and (tmp_path / "link").is_symlink()


def test_a_folder_with_anything_else_in_it_is_not_replaced(old):
    (old / "letters.txt").write_text("dear")
    with pytest.raises(RecipeError, match=r"a base and nothing else.*got one with letters.txt in it"):
        make(old)
    assert names(old) == ["letters.txt", "model"]
    with pytest.raises(RecipeError, match="expected a folder, got a file"):
        make(old / "model")


def test_two_at_a_time_and_what_a_killed_one_left_are_sentences(tmp_path, old):
    with replaced(old, ["model"]), pytest.raises(RecipeError, match=r"\.base\.new already exists; wait .* remove it"):
        make(old)
    (tmp_path / ".base.new").mkdir()
    with pytest.raises(RecipeError, match="already exists"):
        make(old)


def test_a_kill_between_the_renames_loses_nothing(tmp_path, old):
    old.rename(tmp_path / ".base.old")
    with pytest.raises(RecipeError), replaced(old, ["model"]):
        raise RecipeError("interrupted again")
    assert (old / "model").read_text() == "old"
