"""One of several learner processes, for tests.learner.test_peers: trains its share, prints what became of it.

    python -m tests.learner.peer RANK SIZE MEETING_POINT REQUEST
"""

import json
import os
import sys

import psutil
import torch

from configs.schema import RunConfig
from learner import peers
from tests.learner.rig import Rig, made_scores


def main(rank: int, size: int, where: str, request: dict) -> None:
    torch.set_num_threads(1)
    rig = Rig(RunConfig.model_validate(request["config"]), request["folder"])
    rig.learner.peers = peers.join(rank, size, where, 60)
    said = {"listens": sorted({one.laddr.ip for one in psutil.Process().net_connections() if one.status == "LISTEN"})}
    if request.get("exit"):
        print(json.dumps(said), flush=True)
        os._exit(request["exit"])
    said |= {"trained": 0, "metrics": [], "applied": []}
    for step in range(request["steps"]):
        try:
            rig.publish()
            for group in rig.groups(step):
                report = rig.learner.consume(group, made_scores(group))
                assert report.accepted, report.reason
            if request.get("spoil"):
                next(iter(rig.learner.parameters.values())).grad[0, 0] = float("nan")
            report = rig.learner.update()
        except peers.PeersLost as error:
            said["error"] = f"{type(error).__name__}: {error}"
            break
        said["metrics"].append(report.metrics)
        said["applied"].append(report.applied)
        said["trained"] += len(report.totals.stats)
    weights = rig.learner.publish()
    print(json.dumps({**said, "sha256": weights.sha256,
                      "arrays": {name: array.tolist() for name, array in weights.arrays.items()}}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
