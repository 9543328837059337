"""The doctor between nodes, and on a real one."""

from pathlib import Path

import pytest

from cluster.doctor.finding import NodeReport
from cluster.doctor.machine import source_hash, versions
from cluster.doctor.nodes import between, examine_cluster
from configs.judges import JudgeConfig
from configs.load import load_config

SAME = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "locus": "abc"}
SERVED = ["--rewards.judge.qwen_vl", '{"serve": {"replicas": 1, "path": "x"}}']


def report(node: str, judge: bool = False, **changed: str) -> NodeReport:
    return NodeReport(node, (), {**SAME, **changed}, judge)


def test_equal_versions_are_one_line():
    (found,) = between(JudgeConfig(), [report("a"), report("b")], None)
    assert found.level == "ok" and found.seen == "python 3.11.7, ray 2.60.0, torch 2.13.0, locus abc"


def test_every_version_that_differs_is_named_with_its_nodes():
    found = between(JudgeConfig(), [report("a"), report("b", torch="2.12.0"), report("c", locus="def")], None)
    assert [one.level for one in found] == ["fail", "fail"]
    assert found[0].seen == "locus differs: abc on a, b; def on c"
    assert found[1].seen == "torch differs: 2.12.0 on b; 2.13.0 on a, c"


def test_a_node_that_did_not_respond_is_not_compared():
    assert between(JudgeConfig(), [NodeReport("gone", ())], None) == []


def test_judges_need_a_node_that_has_vllm_or_one_that_may_come():
    config = load_config(SERVED)

    def of_judges(*reports: NodeReport, to_come: float | None = None) -> list[str]:
        return [one.level for one in between(config.rewards.judge, reports, to_come) if one.check == "judge servers"]

    assert of_judges(report("a")) == ["fail"]
    assert of_judges(report("a"), to_come=4) == ["warn"]
    assert of_judges(report("a"), report("b", judge=True)) == []


def test_the_code_of_two_machines_is_told_apart(tmp_path: Path):
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "a.py").write_text("1")
    first = source_hash(tmp_path)
    assert source_hash(tmp_path) == first and len(first) == 12
    (tmp_path / "learner" / "a.py").rename(tmp_path / "learner" / "b.py")
    moved = source_hash(tmp_path)
    (tmp_path / "learner" / "b.py").write_text("2")
    assert len({first, moved, source_hash(tmp_path)}) == 3
    assert versions()["locus"] == source_hash()


@pytest.mark.ray
@pytest.mark.slow
def test_every_node_of_a_real_cluster_is_examined(ray_cluster, tmp_path: Path):
    node, cluster = examine_cluster(load_config(["--folder", str(tmp_path / "runs")]))
    found = {one.check: one for one in node.findings}
    assert set(found) == {"gpus", "disk", "disk speed", "run folder", "data", "object store", "token", "ports"}
    assert {name: found[name].level for name in ("run folder", "data", "token", "ports")} == dict.fromkeys(
        ("run folder", "data", "token", "ports"), "ok"
    )
    assert node.node.endswith("(head)") and node.versions == versions()
    assert [(one.check, one.level) for one in cluster.findings] == [
        ("ray", "ok"),
        ("gpus requested", "ok"),
        ("versions", "ok"),
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_node_lacks_is_said_by_that_node(ray_cluster, tmp_path: Path, monkeypatch):
    config = load_config(
        [
            "--folder",
            str(tmp_path),
            "--editor.path",
            str(tmp_path / "no-model"),
            "--rewards.judge.qwen_vl.urls",
            "['http://127.0.0.1:9/v1']",
            "--cluster.gpus_for_learner",
            "1000",
        ]
    )
    node, cluster = examine_cluster(config)
    failed = {one.check: one for one in (*node.findings, *cluster.findings) if one.level == "fail"}
    assert set(failed) == {"data", "judge qwen_vl", "gpus requested"} and all(one.fix for one in failed.values())
