"""A run's configuration names the run in whose folder it lies."""

import shutil
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_config, to_yaml
from configs.run_files import CONFIG, EVENTS, LOCK
from configs.schema import RunConfig


def left_by_a_run(folder: Path, mark: str = EVENTS) -> Path:
    folder.mkdir(parents=True)
    (folder / mark).parent.mkdir(exist_ok=True)
    (folder / mark).touch()
    (folder / CONFIG).write_text(to_yaml(RunConfig(name=folder.name, folder=str(folder.parent))))
    return folder / CONFIG


@pytest.mark.parametrize("mark", [EVENTS, LOCK, "checkpoints/step_000025"])
def test_a_run_that_was_renamed_moved_or_copied_is_the_one_where_its_configuration_lies(tmp_path, mark):
    left_by_a_run(tmp_path / "runs" / "ren", mark)
    (tmp_path / "runs" / "ren").rename(tmp_path / "runs" / "keep")
    shutil.copytree(tmp_path / "runs" / "keep", tmp_path / "elsewhere" / "copy")
    for parent, name in (("runs", "keep"), ("elsewhere", "copy")):
        config = load_config(["--config", str(tmp_path / parent / name / CONFIG)])
        assert (config.folder, config.name) == (str(tmp_path / parent), name)


def test_a_path_that_does_not_spell_the_folder_means_it_too(tmp_path, monkeypatch):
    left_by_a_run(tmp_path / "runs" / "ren")
    (tmp_path / "runs" / "ren").rename(tmp_path / "runs" / "keep")
    for here, path in (
        ("runs/keep", CONFIG),
        ("runs/keep", f"./{CONFIG}"),
        ("runs", f"keep/{CONFIG}"),
        (".", f"runs/keep/{CONFIG}"),
        ("runs/keep/..", f"keep/../keep/{CONFIG}"),
    ):
        monkeypatch.chdir(tmp_path / here)
        config = load_config(["--config", path])
        assert (Path(config.folder) / config.name).resolve() == tmp_path / "runs" / "keep" and config.name == "keep"


def test_a_flag_names_another_run_and_a_file_that_no_run_wrote_keeps_its_name(tmp_path):
    path = str(left_by_a_run(tmp_path / "keep"))
    assert load_config(["--config", path, "--name", "new"]).name == "new"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CONFIG).write_text("name: own\nfolder: elsewhere\n")
    config = load_config(["--config", str(tmp_path / "mine" / CONFIG)])
    assert (config.folder, config.name) == ("elsewhere", "own")
    shutil.copy(path, tmp_path / "keep" / "other.yaml")
    assert load_config(["--config", str(tmp_path / "keep" / "other.yaml")]).name == "keep"


def test_a_folder_that_no_run_can_have_is_refused_by_name(tmp_path):
    path = left_by_a_run(tmp_path / "keep").parent.rename(tmp_path / "my run") / CONFIG
    with pytest.raises(ConfigError, match=r"^name: expected .*, got 'my run' \(set by the folder of .*my run/"):
        load_config(["--config", str(path)])
