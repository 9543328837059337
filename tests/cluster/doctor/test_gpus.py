"""GPUs asked for against GPUs there are, and what a driver says."""

import subprocess
import sys

import pytest

from cluster.doctor.gpus import Gpu, Needs, enough, machine_finding, needs, query
from configs.load import load_config

ON_GPUS = [
    "--cluster.rollout_workers",
    "4",
    "--cluster.gpus_per_rollout_worker",
    "0.5",
    "--cluster.gpus_for_learner",
    "1",
]
JUDGE = ["--rewards.judge.qwen_vl", '{"serve": {"replicas": 2, "path": "x", "gpus": 1}}']


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], Needs(0, 0)),
        (ON_GPUS, Needs(3, 1)),
        ([*ON_GPUS, *JUDGE], Needs(5, 1)),
        (["--cluster.gpus_for_learner", "2"], Needs(2, 2)),
        ([*ON_GPUS, "--learner.num_workers", "4"], Needs(6, 4)),
        (["--config", "kontext_1gpu"], Needs(1, 1)),
        (["--cluster.mode", "inline"], Needs(0, 0)),
    ],
)
def test_what_a_configuration_asks_for(flags, expected):
    assert needs(load_config(flags)) == expected


@pytest.mark.parametrize(
    ("flags", "per_node", "at_most", "level", "words"),
    [
        ([], [0], None, "ok", "0 requested, 0 available"),
        (ON_GPUS, [1, 1, 1], None, "ok", "3 requested, 3 available"),
        (ON_GPUS, [1, 1], None, "fail", "3 requested, 2 available"),
        (ON_GPUS, [0], 13, "warn", "13 with autoscaling"),
        (ON_GPUS, [0], 2, "fail", "2 with autoscaling"),
        (["--cluster.gpus_for_learner", "2"], [1, 1], None, "fail", "but no node has that many"),
        ([*ON_GPUS, "--learner.num_workers", "4"], [4, 2], None, "ok", "6 requested, 6 available"),
        (
            [*ON_GPUS, "--learner.num_workers", "4"],
            [3, 3],
            None,
            "fail",
            "4 must be on one node, but no node has that many",
        ),
        (
            [*ON_GPUS, "--learner.num_workers", "4"],
            [1, 1],
            13,
            "warn",
            "4 must be on one node, but no node has that many now",
        ),
        (["--editor.device", "cuda"], [1, 0], None, "fail", "no GPU is reserved"),
        (["--editor.device", "cuda"], [1, 1], None, "ok", "0 requested, 2 available"),
        (["--config", "kontext_1gpu"], [0], None, "fail", "1 requested, 0 available"),
        (["--config", "kontext_1gpu"], [1], None, "ok", "1 requested, 1 available"),
    ],
)
def test_whether_there_are_enough(flags, per_node, at_most, level, words):
    found = enough(load_config(flags), per_node, at_most)
    assert found.level == level and words in found.seen and bool(found.fix) == (level != "ok")


def answering(text: str, code: int = 0) -> list[Gpu]:
    return query([sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"])


def test_what_the_driver_says():
    listed = "NVIDIA H100 80GB HBM3, 81559, 4, 570.86.15\nNVIDIA H100 80GB HBM3, 81559, 70000, 570.86.15\n"
    assert answering(listed)[1] == Gpu("NVIDIA H100 80GB HBM3", 81559, 70000, "570.86.15")
    assert query(["no-such-program-here"]) == []
    found, count = machine_finding(lambda: answering(listed))
    assert count == 2 and found.level == "warn" and "80 GiB" in found.seen and "570.86.15" in found.seen
    assert "GPU 1 is in use already" in found.seen
    found, count = machine_finding(lambda: answering(listed.replace("70000", "10")))
    assert (found.level, count) == ("ok", 2)


@pytest.mark.parametrize(
    "find",
    [
        lambda: answering("Failed to initialize NVML: Driver/library version mismatch", 18),
        lambda: answering("[GPU is lost], 1"),
    ],
)
def test_a_driver_that_does_not_respond_is_a_failure_and_not_no_gpu(find):
    with pytest.raises((ValueError, subprocess.SubprocessError)):
        find()
    found, count = machine_finding(find)
    assert (found.level, count) == ("fail", 0) and "nvidia-smi" in found.fix
