"""Whole runs in one process: what they leave behind, and that a resumed run ends as the unbroken one."""

import json
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from actors.rollout import sample
from actors.worker import held_out_seed
from configs.load import config_hash, load_config, parse_command_line
from editing.data import open_tasks
from editing.editors.adapter_file import load_adapter
from editing.editors.lora import adapter_arrays
from editing.editors.policy import open_policy
from editing.weights import fingerprint
from learner.audit import audited
from learner.errors import RunFailed, RunRefused
from learner.reporting.gallery import GalleryReport
from learner.run import run
from learner.state.event_log import read_events
from learner.state.run_name import free_name
from locus.version import __version__
from rewards.pool import RewardPool
from tests.editing.test_data import write_manifest
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

ADAPTER = "adapter/pytorch_lora_weights.safetensors"


class Interrupted(KeyboardInterrupt):
    pass


class Interrupt(Watcher):
    """Ends the run, as a crash would, once a step is done."""

    def __init__(self, step):
        super().__init__()
        self.last = step

    def on_step(self, record):
        if record.step == self.last:
            raise Interrupted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unbroken(tiny_kontext, folder):
    watcher = Watcher()
    config = tiny_run(tiny_kontext, folder, "whole")
    return config, run(config, observers=[watcher]), watcher


def test_a_run_leaves_its_summary_its_adapter_and_its_diary(unbroken, folder):
    _, summary, watcher = unbroken
    path = folder / "whole"
    assert json.loads((path / "summary.json").read_text()) == summary
    assert summary["counters"] == {
        "leased": 8,
        "trained": 8,
        "rejected": 0,
        "requeued": 0,
        "in_flight": 0,
        "replayed": 0,
    }
    # Two steps are kept, of three candidates and an anchor's predecessors, 64 tokens of 16 channels; 64 x 64 pixels.
    assert summary["group_bytes"] == {"latent_bytes": 4 * 2 * (3 + 1) * 64 * 16, "image_bytes": 3 * 64 * 64 * 3}
    assert watcher.steps[0].learner["group_latent_bytes"] == summary["group_bytes"]["latent_bytes"]
    metrics = {"edit_score", "editscore_truth", "edit_accuracy", "edit_psnr", "background_psnr", "background_ssim"}
    for block in ("base", "final", "gain"):
        assert set(summary[block]["mean"]) == set(summary[block]["standard_error"]) > metrics
    for name, value in summary["gain"]["mean"].items():
        assert value == pytest.approx(summary["final"]["mean"][name] - summary["base"]["mean"][name])
    assert summary["gain"]["mean"]["edit_psnr"] != 0
    assert summary["reward_std"]["first_step"] == watcher.steps[0].reward_std["reward"] > 0
    assert summary["reward_std"]["last_step"] == watcher.steps[-1].reward_std["reward"]
    assert summary["seconds"]["total"] >= summary["seconds"]["training"] >= summary["seconds"]["rollout"] > 0
    started = next(read_events(path / "events.jsonl"))
    assert summary["locus_version"] == started["locus_version"] == __version__
    assert summary["code"] == started["code"] and summary["data"] == started["data"]
    events = [event["event"] for event in read_events(path / "events.jsonl")]
    assert events[0] == "started" and events[-1] == "finished" and events.count("trained") == 8
    assert events.count("published") == 5 and events.count("checkpoint") == 3
    assert events.count("spooled") == 8 and not list((path / "spool").iterdir())
    assert [e.label for e in watcher.evaluations] == ["base", "final"]
    assert [len(e.shown) for e in watcher.evaluations] == [1, 1]
    assert [g.images is not None for g in watcher.groups] == [False] * 6 + [True, False]


def test_the_exported_adapter_is_the_last_published_version_and_gives_the_final_metrics(unbroken, folder):
    config, summary, _ = unbroken
    editor = open_policy(config.editor, config.seed)
    load_adapter(editor.transformer, folder / "whole" / "adapter")
    published = [e for e in read_events(folder / "whole" / "events.jsonl") if e["event"] == "published"]
    assert published[0]["fingerprint"] != published[-1]["fingerprint"]
    assert published[-1]["fingerprint"] == fingerprint(adapter_arrays(editor.transformer))
    assert edit_psnr(config, editor) == pytest.approx(summary["final"]["mean"]["edit_psnr"], abs=1e-9)


def edit_psnr(config, editor) -> float:
    """Of the held-out tasks as the editor edits them."""
    tasks = open_tasks(config)
    images = [sample(editor, tasks.held_out[i], held_out_seed(i), 2, "euler") for i in range(3)]
    rows = RewardPool(config.rewards, tasks).measure(range(3), images, "held_out")
    return float(np.mean([row["edit_psnr"] for row in rows]))


def test_a_running_mean_is_measured_and_exported_and_changes_no_rollout(unbroken, tiny_kontext, folder):
    over = {"learner": {"optimizer": {"ema": 0.5}}, "report": {"evaluate_every": 1, "gallery_tasks": 1}}
    config = tiny_run(tiny_kontext, folder, "mean", over)
    summary = run(config)
    events = {name: list(read_events(folder / name / "events.jsonl")) for name in ("whole", "mean")}
    whole, mean = ([e["fingerprint"] for e in events[name] if e["event"] == "published"] for name in ("whole", "mean"))
    assert whole == mean, "rollouts and updates are those of the run without it"
    assert not any(audited(folder / "mean" / "events.jsonl").faults.values())
    measured = [e["fingerprint"] for e in events["mean"] if e["event"] == "evaluated"]
    assert measured[0] is None and len({*measured[1:], *mean}) == len(measured) - 1 + len(mean)
    assert all(e["fingerprint"] is None for e in events["whole"] if e["event"] == "evaluated")
    editor = open_policy(config.editor, config.seed)
    load_adapter(editor.transformer, folder / "mean" / "adapter")
    assert fingerprint(adapter_arrays(editor.transformer)) == measured[-1]
    assert edit_psnr(config, editor) == pytest.approx(summary["final"]["mean"]["edit_psnr"], abs=1e-9)


def test_a_run_begins_with_another_runs_adapter_and_its_base_is_the_editor_without_one(unbroken, tiny_kontext, folder):
    _, first, _ = unbroken
    over = {"editor": {"lora": {"start": str(folder / "whole" / "adapter")}}}
    summary = run(tiny_run(tiny_kontext, folder, "further", over))
    published = {
        name: [e["fingerprint"] for e in read_events(folder / name / "events.jsonl") if e["event"] == "published"]
        for name in ("whole", "further")
    }
    assert published["further"][0] == published["whole"][-1]
    assert len({*published["further"]}) == len(published["further"])
    assert summary["base"] == first["base"], "gains are counted from the editor without an adapter"
    assert not any(audited(folder / "further" / "events.jsonl").faults.values())


def test_the_ratio_is_one_before_every_update(unbroken):
    *_, watcher = unbroken
    assert all(step.learner["ratio_deviation"] == 0 for step in watcher.steps)
    assert all(step.learner["gradient_norm"] > 0 for step in watcher.steps)


@pytest.mark.parametrize("last", [2, 3])
def test_a_resumed_run_ends_with_the_same_bytes(tiny_kontext, folder, unbroken, last):
    name = f"broken-after-{last}"
    config = tiny_run(tiny_kontext, folder, name)
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(last)])
    assert not (folder / name / ADAPTER).exists()
    watcher = Watcher()
    summary = run(config, resume=True, observers=[watcher])
    assert summary["first_step"] == 2 and [step.step for step in watcher.steps] == [3, 4]
    whole, again = load_file(folder / "whole" / ADAPTER), load_file(folder / name / ADAPTER)
    assert whole.keys() == again.keys() and all(np.array_equal(whole[k], again[k]) for k in whole)
    for file in ("adapter.safetensors", "optimizer.safetensors"):
        step = "checkpoints/step_000004"
        assert (folder / "whole" / step / file).read_bytes() == (folder / name / step / file).read_bytes()
    assert summary["final"] == unbroken[1]["final"] and summary["base"] == unbroken[1]["base"]
    assert summary["reward_std"] == unbroken[1]["reward_std"]
    events = list(read_events(folder / name / "events.jsonl"))
    assert [e["seq"] for e in events] == list(range(len(events)))
    assert [e["reason"] for e in events if e["event"] == "failed"] == [""]


def test_training_moves_the_weights_and_another_seed_moves_them_elsewhere(tiny_kontext, folder, unbroken):
    config, *_ = unbroken
    fresh = adapter_arrays(open_policy(config.editor, config.seed).transformer)
    trained = load_file(folder / "whole" / ADAPTER)
    moved = {k: np.abs(trained[f"transformer.{k}"] - fresh[k]).max() for k in fresh}
    assert min(moved.values()) > 0
    run(tiny_run(tiny_kontext, folder, "other", {"seed": 1, "learner": {"steps": 1}}))
    other = load_file(folder / "other" / ADAPTER)
    assert any(not np.array_equal(other[k], trained[k]) for k in other)


def test_a_truncated_checkpoint_is_refused_by_name_and_the_previous_one_taken(tiny_kontext, folder):
    config = tiny_run(tiny_kontext, folder, "truncated", {"checkpoint": {"every": 1}, "learner": {"steps": 3}})
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(2)])
    victim = folder / "truncated" / "checkpoints" / "step_000002" / "adapter.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1])
    records = []
    watcher = Watcher()
    watcher.on_start = records.append
    summary = run(config, resume=True, observers=[watcher])
    assert summary["first_step"] == 1
    (sentence,) = records[0].refused_checkpoints
    assert "step_000002 is refused: adapter.safetensors" in sentence and records[0].first_step == 1


def test_without_a_sound_checkpoint_nothing_starts_over_silently(tiny_kontext, folder):
    config = tiny_run(tiny_kontext, folder, "none")
    with pytest.raises(Interrupted):
        run(config, observers=[Interrupt(1)])
    (only,) = (folder / "none" / "checkpoints").iterdir()
    assert only.name == "step_000000"
    (only / "state.json").unlink()
    with pytest.raises(RunFailed, match=r"none of the checkpoints in .* can be trusted. .*state.json"):
        run(config, resume=True)
    with pytest.raises(RunFailed, match="holds a run already"):
        run(config)


def test_a_run_that_ended_before_its_first_checkpoint_starts(tiny_kontext, folder, unbroken, monkeypatch):
    config = tiny_run(tiny_kontext, folder, "early")
    with monkeypatch.context() as patch:
        patch.setattr("learner.run.evaluate", raising(Interrupted))
        with pytest.raises(Interrupted):
            run(config)
    assert not (folder / "early" / "checkpoints").exists()
    summary = run(config, resume=True)
    assert summary["first_step"] == 0 and summary["final"] == unbroken[1]["final"]


@pytest.mark.parametrize("more", [{}, {"learner": {"steps": 2}}])
def test_a_run_whose_checkpoints_are_gone_is_refused_and_nothing_of_it_changed(tiny_kontext, tmp_path, more):
    run(tiny_run(tiny_kontext, tmp_path, "lost", {"learner": {"steps": 1}}))
    shutil.rmtree(tmp_path / "lost" / "checkpoints")
    (tmp_path / "lost" / "checkpoints").mkdir()
    before = contents(tmp_path / "lost")
    with pytest.raises(RunRefused, match=r"says that step 1 was saved, but .* no checkpoint") as refused:
        run(tiny_run(tiny_kontext, tmp_path, "lost", {"learner": {"steps": 1}, **more}), resume=True)
    assert contents(tmp_path / "lost") == before
    words = shlex.split(str(refused.value).rpartition("python -m learner.main ")[2])
    with free_name(load_config(words)) as config:
        assert config.name == "lost-2"


@pytest.mark.parametrize("log", [None, "5\n", "[]\n"])
def test_a_run_whose_event_log_is_none_is_refused_and_nothing_of_it_changed(unbroken, folder, tmp_path, log):
    shutil.copytree(folder / "whole", tmp_path / "copy")
    (tmp_path / "copy" / "events.jsonl").unlink()
    if log is None:
        (tmp_path / "copy" / "events.jsonl").mkdir()
    else:
        (tmp_path / "copy" / "events.jsonl").write_text(log)
    before = contents(tmp_path / "copy")
    config = load_config(["--config", str(tmp_path / "copy" / "config.yaml")])
    with pytest.raises(RunRefused, match=r"^--resume: .*the event log .* Put a sound copy back, or train from"):
        run(config, resume=True)
    assert contents(tmp_path / "copy") == before


@pytest.mark.parametrize("log", [None, ""])
def test_a_run_whose_event_log_is_gone_is_refused_and_nothing_of_it_changed(unbroken, folder, tmp_path, log):
    shutil.copytree(folder / "whole", tmp_path / "copy")
    (tmp_path / "copy" / "events.jsonl").unlink()
    if log is not None:
        (tmp_path / "copy" / "events.jsonl").write_text(log)
    before = contents(tmp_path / "copy")
    config = load_config(["--config", str(tmp_path / "copy" / "config.yaml")])
    with pytest.raises(RunRefused, match=r"has no checkpoint.* Put .*events.jsonl back, or train from") as refused:
        run(config, resume=True)
    assert "step_0000" in str(refused.value) and contents(tmp_path / "copy") == before


def test_the_checkpoint_before_one_that_is_gone_is_taken_and_that_is_said(tiny_kontext, tmp_path):
    config = tiny_run(tiny_kontext, tmp_path, "lost", {"learner": {"steps": 2}, "checkpoint": {"every": 1}})
    run(config)
    shutil.rmtree(tmp_path / "lost" / "checkpoints" / "step_000002")
    records = []
    watcher = Watcher()
    watcher.on_start = records.append
    assert run(config, resume=True, observers=[watcher])["first_step"] == 1
    (sentence,) = records[0].refused_checkpoints
    assert "step_000002 is gone, which the event log says was saved" in sentence
    run(config, resume=True, observers=[watcher])
    assert records[1].refused_checkpoints == ()


def contents(folder):
    """Of a run's files but its lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def raising(error):
    def fail(*arguments):
        raise error

    return fail


def test_a_finished_run_can_go_on_longer(tiny_kontext, folder):
    run(tiny_run(tiny_kontext, folder, "longer", {"learner": {"steps": 2}}))
    config = tiny_run(tiny_kontext, folder, "longer", {"learner": {"steps": 3}})
    ended = []

    class Looks(Watcher):
        def on_step(self, record):
            ended.append((folder / "longer" / "summary.json").exists())

    summary = run(config, resume=True, observers=[Looks()])
    assert ended == [False] and (folder / "longer" / "summary.json").exists()
    assert (summary["first_step"], summary["steps"], summary["counters"]["trained"]) == (2, 3, 6)
    assert config_hash(config) == summary["config_hash"]
    with pytest.raises(RunFailed, match=r"is at step 3 already, learner.steps is 2"):
        run(tiny_run(tiny_kontext, folder, "longer", {"learner": {"steps": 2}}), resume=True)


@pytest.mark.parametrize("put", [shutil.move, shutil.copytree])
def test_a_run_that_was_renamed_or_copied_is_continued_where_it_lies(tiny_kontext, tmp_path, put):
    config = tiny_run(tiny_kontext, tmp_path, "ren", {"learner": {"steps": 1}})
    run(config)
    put(tmp_path / "ren", tmp_path / "keep")
    if not (tmp_path / "ren").exists():
        run(config)
    other = contents(tmp_path / "ren")
    request = parse_command_line(
        ["--config", str(tmp_path / "keep" / "config.yaml"), "--resume", "--learner.steps", "2"]
    )
    summary = run(request.config, request.resume)
    assert (summary["name"], summary["first_step"], summary["steps"]) == ("keep", 1, 2)
    assert (tmp_path / "keep" / "checkpoints" / "step_000002").is_dir()
    assert contents(tmp_path / "ren") == other


def test_weights_published_rarely_are_those_that_generate(tiny_kontext, folder):
    """In one process worker and learner share an editor: groups of an older version must still come from it."""
    watcher = Watcher()
    run(tiny_run(tiny_kontext, folder, "rare", {"cluster": {"staleness": 1, "publish_every": 2}}), observers=[watcher])
    assert [g.staleness for g in watcher.groups] == [0, 0, 1, 1, 0, 0, 1, 1]
    # The learner recomputes every stale group's own step under the version that it names.
    assert all(step.learner["leap_error"] < 1e-4 for step in watcher.steps)
    assert watcher.steps[1].learner["stale_groups"] == 2


def test_a_group_that_is_not_finite_is_redone(tiny_kontext, folder, monkeypatch):
    from actors.worker import RolloutWorker
    from editing.trajectory import MessageError

    whole, failed = RolloutWorker.roll_out, []

    def sometimes(worker, lease):
        if (lease.step, lease.slot, lease.attempt) == (1, 0, 0):
            failed.append(lease)
            raise MessageError("latents contain NaN or infinity")
        return whole(worker, lease)

    monkeypatch.setattr(RolloutWorker, "roll_out", sometimes)
    summary = run(tiny_run(tiny_kontext, folder, "nan", {"learner": {"steps": 2}}))
    assert failed and summary["counters"]["requeued"] == 1 and summary["counters"]["trained"] == 4
    (event,) = [e for e in read_events(folder / "nan" / "events.jsonl") if e["event"] == "requeued"]
    assert event["reason"] == "MessageError: latents contain NaN or infinity"


def test_a_manifest_without_ground_truth_trains_and_shows_its_images(tiny_kontext, folder):
    config = tiny_run(
        tiny_kontext,
        folder,
        "manifest",
        {
            "data": {
                "type": "manifest",
                "path": str(write_manifest(folder / "m.jsonl", 4)),
                "resolution": 32,
                "held_out_fraction": 0.5,
            },
            "rewards": {"weights": {"background_psnr": 0.5, "acd": 1.0, "edit_psnr": 0.0}},
            "learner": {"steps": 1},
            "algorithm": {"preservation": {"velocity_weight": 1.0, "velocity_region": "edit"}},
        },
    )
    watcher = Watcher()
    summary = run(config, observers=[GalleryReport(), watcher])
    assert {"background_psnr", "background_ssim", "edit_change"} < set(summary["final"]["mean"])
    assert not {"edit_psnr", "edit_delta_e", "edit_score"} & set(summary["final"]["mean"])
    assert summary["counters"]["trained"] == 2 and watcher.steps[0].learner["gradient_norm"] > 0
    shown = {name for name in watcher.steps[0].reward_mean if not name.endswith("_drift")}
    assert shown == {"background_psnr", "acd", "edit_change", "reward"}
    assert watcher.evaluations[0].shown[0].image.shape == (24, 40, 3)
    assert "make it red" in (folder / "manifest" / "gallery" / "index.html").read_text()
