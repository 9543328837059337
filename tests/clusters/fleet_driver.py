"""A whole run on a cluster whose nodes come and go; `test_fleet.py` starts this in namespaces of its own.

    python -m tests.clusters.fleet_driver nodes|autoscaler EDITOR FOLDER

Prints one JSON line at the end: the number of nodes with a GPU that were alive after each step.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.cluster_utils import AutoscalingCluster, Cluster

import actors.fleet
from configs.schema import RunConfig
from learner.run import run
from tests.learner.tiny_run import tiny_run
from tests.system.faulty import Scaler, faulty_worker

SMALL = 200 * 2**20


def gpu_nodes() -> int:
    return sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.3)


class Nodes(Scaler):
    """Counts nodes after every step; does something of its own after some."""

    def __init__(self, folder: Path, plan: dict[int, int], then: dict[int, Callable[[], object]]) -> None:
        super().__init__(folder, plan)
        self.then, self.counts = then, []

    def on_step(self, record) -> None:
        super().on_step(record)
        if record.step in self.then:
            self.then[record.step]()
        self.counts.append(gpu_nodes())


def configured(editor: Path, folder: Path, workers: int, address: str) -> RunConfig:
    return tiny_run(
        editor,
        folder,
        "run",
        {
            "learner": {"steps": 5, "groups_per_step": 4},
            "data": {"held_out_tasks": 1},
            "report": {"gallery_groups": 0, "gallery_tasks": 0},
            "cluster": {
                "mode": "ray",
                "address": address,
                "rollout_workers": workers,
                "groups_in_flight": 1,
                "gpus_per_rollout_worker": 1.0,
                "group_timeout": 240.0,
            },
        },
    )


def with_faults(folder: Path, plan: dict[str, str]) -> None:
    (folder / "struck").mkdir()
    actors.fleet.RolloutActor = faulty_worker(folder / "struck", plan, folder / "run" / "events.jsonl")


def event_log(folder: Path) -> str:
    path = folder / "run" / "events.jsonl"
    return path.read_text() if path.exists() else ""


def nodes(editor: Path, folder: Path) -> list[int]:
    """Two workers wait for nodes; one node dies with a group in its hands; another one comes."""
    # No handlers of signals: nodes are added by threads. What is left ends with the namespace.
    cluster = Cluster(
        initialize_head=True, shutdown_at_exit=False, head_node_args={"num_cpus": 1, "object_store_memory": SMALL}
    )

    def add():
        return cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=SMALL)

    victims: list[object] = []

    def at_the_start() -> None:
        until(lambda: '"event": "started"' in event_log(folder))
        victims.append(add())

    def a_node_dies() -> None:
        until(lambda: '"event": "leased", "group": "000003.001' in event_log(folder))
        cluster.remove_node(victims[0], allow_graceful=False)
        until(lambda: '"event": "worker_lost"' in event_log(folder))
        until(lambda: gpu_nodes() == 1)  # Ray takes its time to believe it
        add()

    # From step 1 on there are two workers; from step 3 on groups wait until the node is dead, from step 4 on until
    # another worker has come for the lost one.
    with_faults(folder, {"1": "worker_started*2", "3": "worker_lost*1", "4": "worker_started*3"})
    threading.Thread(target=at_the_start, daemon=True).start()
    watcher = Nodes(folder / "run", {}, {1: add, 3: lambda: threading.Thread(target=a_node_dies, daemon=True).start()})
    try:
        run(configured(editor, folder, 2, cluster.address), observers=[watcher])
    finally:
        ray.shutdown()
        cluster.shutdown()
    return watcher.counts


class FakeCloud(AutoscalingCluster):
    """Ray's own, with the template that its wheel lacks."""

    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **more):
        empty: dict[str, object] = {
            name: []
            for name in (
                "initialization_commands",
                "setup_commands",
                "head_setup_commands",
                "worker_setup_commands",
                "head_start_ray_commands",
                "worker_start_ray_commands",
                "cluster_synced_files",
                "rsync_exclude",
                "rsync_filter",
            )
        }
        return {
            "cluster_name": "fake",
            "max_workers": 8,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "fake_multinode",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {
                "ray.head.default": {"resources": head_resources, "node_config": {}, "max_workers": 0},
                **worker_node_types,
            },
            "head_node_type": "ray.head.default",
            "auth": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **empty,
            **more,
        }


def autoscaler(editor: Path, folder: Path) -> list[int]:
    """1 worker, then 4, then 2: nodes are started for those that wait, and ended when they are idle."""
    cluster = FakeCloud(
        {"CPU": 1},
        {
            "rollout": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": SMALL},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 4,
            }
        },
    )
    cluster.start()
    with_faults(folder, {"1": "worker_started*4", "3": "fleet_resized*2", "4": "worker_drained*2"})
    watcher = Nodes(folder / "run", {1: 4, 3: 2}, {5: lambda: until(lambda: gpu_nodes() == 2)})
    try:
        run(configured(editor, folder, 1, "auto"), observers=[watcher])
    finally:
        ray.shutdown()
        cluster.shutdown()
    return watcher.counts


if __name__ == "__main__":
    subprocess.run(["ray", "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
    what = {"nodes": nodes, "autoscaler": autoscaler}[sys.argv[1]]
    print(json.dumps(what(Path(sys.argv[2]), Path(sys.argv[3]))))
