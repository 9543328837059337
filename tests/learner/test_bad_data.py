"""Images that vanish or change while a run goes on cost their tasks, not the run (F18 at run time)."""

import json
from pathlib import Path

import pytest
from PIL import Image

from editing.data import CHECKED, open_tasks
from learner.audit import audited
from learner.errors import RunFailed
from learner.reporting.gallery import GalleryReport
from learner.run import run
from learner.state.event_log import read_events
from tests.editing.test_data import write_manifest
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run


class Vandal(Watcher):
    """After the first step, one training image is gone, another one has changed, and so has a held-out one."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_step(self, record):
        super().on_step(record)
        if record.step == 1:
            (self.folder / "2.png").unlink()
            Image.new("RGB", (40, 30), "red").save(self.folder / "3.png")
            (self.folder / "9.png").write_bytes(b"no image")


def manifest_run(editor, folder, name, mode, **over):
    (folder / name).mkdir()
    path = write_manifest(folder / name / "m.jsonl", 10)
    with path.open("a") as file:
        file.write(json.dumps({"id": "torn", "source": "none.png", "mask": "mask.png", "instruction": "x"}) + "\n")
    return path.parent, tiny_run(
        editor,
        folder / "runs",
        name,
        {
            "data": {
                "type": "manifest",
                "path": str(path),
                "resolution": 32,
                "held_out_fraction": 0.3,
                "max_faulty_fraction": 0.3,
                **over,
            },
            "rewards": {"weights": {"background_psnr": 0.5, "acd": 1.0, "edit_psnr": 0.0}},
            "learner": {"steps": 5},
            "algorithm": {"preservation": {"velocity_weight": 1.0}},
            "cluster": {"mode": mode},
        },
    )


@pytest.mark.parametrize(
    "mode", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow, pytest.mark.fault])]
)
def test_tasks_that_go_bad_are_left_out_and_told_of(mode, request, tiny_kontext, tmp_path):
    if mode == "ray":
        request.getfixturevalue("ray_cluster")
    data, config = manifest_run(tiny_kontext, tmp_path, "vandal", mode)
    watcher = Vandal(data)
    summary = run(config, observers=[watcher])
    events = list(read_events(tmp_path / "runs" / "vandal" / "events.jsonl"))
    assert any(
        "data.path: 1 faulty line left out:\n  " in notice and "none.png" in notice for notice in watcher.notices
    )
    skipped = {(e.get("split", "training"), e["task"]): e["reason"] for e in events if e["event"] == "task_skipped"}
    assert set(skipped) == {("training", 2), ("training", 3), ("held-out", 2)}
    assert "2.png" in skipped["training", 2] and "has changed since" in skipped["training", 3]
    first = {
        task: min(e["seq"] for e in events if e["event"] == "task_skipped" and e["task"] == task and "split" not in e)
        for task in (2, 3)
    }
    assert all(e["seq"] < first[e["task"]] for e in events if e["event"] == "leased" and e["task"] in first)
    # All steps had their groups, and what was measured twice is compared.
    assert summary["counters"]["trained"] == 10 and summary["counters"]["rejected"] == 0
    assert [evaluation.tasks for evaluation in watcher.evaluations] == [3, 2]
    assert set(summary["left_out"]["tasks"]) == {"2", "3"} and len(summary["left_out"]["lines"]["data.path"]) == 1
    assert not any(audited(tmp_path / "runs" / "vandal" / "events.jsonl").faults.values())


def test_more_of_it_than_the_limit_stops_the_run_with_its_state_saved(tiny_kontext, tmp_path):
    data, config = manifest_run(tiny_kontext, tmp_path, "strict", "inline", max_faulty_fraction=0.1)
    with pytest.raises(
        RunFailed,
        match=r"1 of 7 training tasks went bad .* data\.max_faulty_fraction = 0\.1 allows"
        r".*The run is saved up to step \d",
    ):
        run(config, observers=[Vandal(data)])


@pytest.mark.parametrize(
    "mode", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow, pytest.mark.fault])]
)
def test_the_data_is_opened_once_per_run_and_handed_on(mode, request, tiny_kontext, tmp_path, monkeypatch):
    if mode == "ray":
        request.getfixturevalue("ray_cluster")
    _, config = manifest_run(tiny_kontext, tmp_path, "once", mode)
    config = config.model_copy(update={"report": config.report.model_copy(update={"gallery_tasks": 1})})
    opened = []

    def opening(asked):
        opened.append(asked)
        cache = tmp_path / "runs" / CHECKED
        tasks = open_tasks(asked)
        # Whoever opened the manifest after this would find it gone.
        (found,) = cache.iterdir()
        found.unlink()
        Path(asked.data.path).unlink()
        return tasks

    monkeypatch.setattr("learner.run.open_tasks", opening)
    report = GalleryReport()
    summary = run(config, observers=[report])
    assert len(opened) == 1 and summary["counters"]["trained"] == 10
    assert (tmp_path / "runs" / "once" / "gallery" / "index.html").is_file()
