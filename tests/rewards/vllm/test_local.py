"""Judge servers of a run in one process, with a stand-in for vLLM: kept alive, and gone at the end."""

import os
import signal
import time

import pytest

from configs.judges import JudgeConfig
from rewards.vllm.local import LocalJudgeServers, devices
from rewards.vllm.replicas import ServersFailed
from tests.rewards.vllm.conftest import alive, gone_within, tree_pids


def judge_of(serve, **judge):
    return JudgeConfig.model_validate({"editscore": {"serve": serve.model_dump()}, **judge})


class Told:
    """What was told, in order."""

    def __init__(self):
        self.events, self.urls = [], []

    def notify(self, event, **fields):
        self.events.append({"event": event, **fields})


def test_a_killed_server_is_replaced_by_one_with_another_address(stand_in, tmp_path):
    told = Told()
    judge = judge_of(stand_in(replicas=2))
    with LocalJudgeServers(judge, "editscore", tmp_path / "run", told.notify, told.urls.append) as servers:
        before = servers.urls()
        pids = [event["pid"] for event in told.events]
        assert len(set(before)) == 2 and all(map(alive, pids))
        (tmp_path / "pids").unlink()
        os.kill(pids[0], signal.SIGKILL)  # its guard
        deadline = time.monotonic() + 60
        while [event["event"] for event in told.events].count("judge_server_started") < 3:
            assert time.monotonic() < deadline
            servers.check()
            time.sleep(0.05)
        lost = told.events[2]
        assert lost["event"] == "judge_server_lost" and lost["pid"] == pids[0] and "signal 9" in lost["reason"]
        assert len(told.urls[-2]) == 1 and len(told.urls[-1]) == 2 and told.urls[-1] == servers.urls()
        assert set(told.urls[-2]) < set(before) and len(set(before) | set(servers.urls())) == 3
        pids += [told.events[-1]["pid"], *tree_pids(tmp_path / "pids")]
        assert all(map(alive, pids[1:]))
    assert not any(map(alive, pids)) and servers.urls() == []
    assert len(list((tmp_path / "run" / "judges").iterdir())) == 3


@pytest.mark.parametrize(
    ("behaviour", "more", "sentence"),
    [
        ("fail", {}, "no weights in that folder"),
        ("mute", {"start_timeout": 1}, r"within 1 s \(serve\.start_timeout\)"),
        ("good", {"python": "/no/such/python"}, "make judge"),
        ("good", {"lora": "/no/such/lora"}, "neither"),
    ],
)
def test_a_server_that_does_not_start_is_a_sentence_and_no_process(stand_in, tmp_path, behaviour, more, sentence):
    servers = LocalJudgeServers(judge_of(stand_in(behaviour, **more)), "editscore", tmp_path, print, print)
    with pytest.raises(ServersFailed, match=sentence), servers:
        pass
    if (tmp_path / "pids").exists():
        assert gone_within(tree_pids(tmp_path / "pids"))


def test_servers_that_still_start_are_closed_too(stand_in, tmp_path):
    servers = LocalJudgeServers(judge_of(stand_in("mute", replicas=1)), "editscore", tmp_path, print, print)
    servers.start()
    pids = tree_pids(tmp_path / "pids")
    servers.close()
    assert not any(map(alive, pids))


def test_gpus_are_given_from_the_last_on(stand_in, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    judge = judge_of(stand_in(gpus=1, replicas=2), qwen_vl={"serve": {"replicas": 1, "gpus": 2, "path": "p"}})
    assert devices(judge, "editscore", 0) == ["3"] and devices(judge, "editscore", 1) == ["2"]
    assert devices(judge, "qwen_vl", 0) == ["1", "0"]
    half = judge_of(stand_in(gpus=0.5, replicas=2))
    assert devices(half, "editscore", 0) == devices(half, "editscore", 1) == ["3"]
    assert devices(judge_of(stand_in(gpus=0)), "editscore", 0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"1 GPUs for each server \(serve\.gpus\), and this machine has 0"):
        devices(judge, "editscore", 0)
