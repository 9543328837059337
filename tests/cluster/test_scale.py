"""The number of workers as a request in a file: what is written, what a run reads, and what both refuse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scale import FILE, MAX_BYTES, DesiredFile, ScaleError, main
from configs import exits
from configs.load import to_yaml
from configs.schema import MAX_ROLLOUT_WORKERS, ClusterConfig, RunConfig


@pytest.fixture
def run(tmp_path):
    def make(**cluster):
        config = RunConfig.model_validate({"cluster": {"rollout_workers": 3, "min_rollout_workers": 2, **cluster}})
        (tmp_path / "config.yaml").write_text(f"# sha256 abc\n{to_yaml(config)}", encoding="utf-8")
        return tmp_path, config.cluster

    return make


def scale(folder, number):
    return main([str(folder), "--rollout-workers", str(number)])


def test_a_run_takes_up_what_was_asked_for_once_and_again_when_asked_again(run, capsys):
    folder, cluster = run()
    desired = DesiredFile(folder, cluster)
    assert desired.look(0.0) is None
    assert scale(folder, 5) == exits.DONE
    assert "5 rollout workers requested" in capsys.readouterr().out
    assert desired.look(0.5) is None  # not every moment
    assert [desired.look(float(second)) for second in (1, 2, 3)] == [5, None, None]
    assert scale(folder, 2) == exits.DONE
    assert desired.look(4.0) == 2
    assert scale(folder, 2) == exits.DONE
    assert desired.look(5.0) == 2  # the same number again: places that were given up are tried again
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", FILE]


def test_a_resumed_run_keeps_the_number_unless_its_own_was_changed(run):
    folder, cluster = run()
    scale(folder, 7)
    assert DesiredFile(folder, cluster).look(100.0) == 7
    other = DesiredFile(folder, cluster.model_copy(update={"rollout_workers": 4}))
    assert [other.look(100.0), other.look(200.0)] == [None, None]
    scale(folder, 6)  # told to the run as it is now
    assert other.look(300.0) == 6


@pytest.mark.parametrize("number", [-1, 0, 1, MAX_ROLLOUT_WORKERS + 1])
def test_numbers_out_of_range_are_refused(run, capsys, number):
    folder, _ = run()
    assert scale(folder, number) == exits.WRONG_REQUEST
    assert f"expected 2 (cluster.min_rollout_workers) to {MAX_ROLLOUT_WORKERS}, got {number}" in capsys.readouterr().err
    assert not (folder / FILE).exists()


def test_there_is_nothing_to_scale_without_workers_without_a_run_and_after_its_end(run, tmp_path, capsys):
    folder, _ = run(mode="inline")
    assert scale(folder, 3) == exits.WRONG_REQUEST
    assert "cluster.mode inline" in capsys.readouterr().err
    assert scale(tmp_path / "nowhere", 3) == exits.WRONG_REQUEST
    assert "expected the folder of a run" in capsys.readouterr().err
    run()
    (folder / "summary.json").write_text("{}")
    assert scale(folder, 3) == exits.WRONG_REQUEST
    assert "has finished" in capsys.readouterr().err
    (folder / "summary.json").unlink()
    (folder / "config.yaml").write_text("learner: [")
    assert scale(folder, 3) == exits.WRONG_REQUEST
    assert "not a configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{",
        "4",
        '{"rollout_workers": 4}',
        "x" * 10 * MAX_BYTES,
        json.dumps({"rollout_workers": "4", "configured": 3, "asked_at": 0.0}),
        json.dumps({"rollout_workers": True, "configured": 3, "asked_at": 0.0}),
        json.dumps({"rollout_workers": 4, "configured": 3, "asked_at": 0.0, "more": 1}),
        json.dumps({"rollout_workers": 10**9, "configured": 3, "asked_at": 0.0}),
        json.dumps({"rollout_workers": 0, "configured": 3, "asked_at": 0.0}),
    ],
)
def test_nonsense_in_the_file_is_told_once_and_the_next_request_is_taken(run, content):
    folder, cluster = run()
    desired = DesiredFile(folder, cluster)
    (folder / FILE).write_text(content)
    with pytest.raises(ScaleError, match=r"is invalid|expected 2 \("):
        desired.look(0.0)
    assert desired.look(1.0) is None
    scale(folder, 4)
    assert desired.look(2.0) == 4


def test_a_file_that_cannot_be_read_is_told_once(run):
    folder, cluster = run()
    (folder / FILE).mkdir()
    desired = DesiredFile(folder, cluster)
    with pytest.raises(ScaleError, match="cannot be read"):
        desired.look(0.0)
    assert desired.look(1.0) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_a_run_fail(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / FILE).write_bytes(content)
    with pytest.raises(ScaleError):
        DesiredFile(folder, ClusterConfig()).look(0.0)


def test_the_floor_is_at_most_the_number_of_workers():
    with pytest.raises(ValueError, match=r"cluster\.min_rollout_workers: expected at most .* = 2, got 3"):
        RunConfig.model_validate({"cluster": {"rollout_workers": 2, "min_rollout_workers": 3}})
