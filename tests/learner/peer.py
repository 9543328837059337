"""One of several learner processes, for test_data_parallel: trains its share, and leaves what became of it."""

import json
import os
from pathlib import Path
from typing import Any

import psutil
import torch

from configs.schema import RunConfig
from learner.update import data_parallel
from tests.learner.rig import Rig, made_scores


def train(rank: int, size: int, where: str, request: dict[str, Any], response: Path) -> None:
    """Joins the others and trains `steps` on-policy steps of `config`.

    The request may also ask to `exit` with a code instead, to `spoil` the gradient, or to begin with a `noise`.
    """
    torch.set_num_threads(1)
    rig = Rig(RunConfig.model_validate(request["config"]), request["folder"])
    rig.learner.peers = data_parallel.join(rank, size, where, 60)
    listens = {one.laddr.ip for one in psutil.Process().net_connections() if one.status == "LISTEN"}
    said: dict[str, Any] = {"listens": sorted(listens), "metrics": [], "applied": []}
    if request.get("exit"):
        response.write_text(json.dumps(said))
        os._exit(request["exit"])
    rig.learner._gate.noise = request.get("noise")
    for step in range(request["steps"]):
        try:
            rig.publish()
            for group in rig.groups(step):
                report = rig.learner.consume(group, made_scores(group))
                assert report.accepted, report.reason
            if request.get("spoil"):
                next(iter(rig.learner.parameters.values())).grad[0, 0] = float("nan")
            made = rig.learner.update()
        except data_parallel.PeersLost as error:
            said["error"] = str(error)
            break
        said["metrics"].append(made.metrics)
        said["applied"].append(made.applied)
    weights = rig.learner.publish()
    arrays = {name: array.tolist() for name, array in weights.arrays.items()}
    state = rig.learner.state
    said |= {"leap_noise": state["leap_noise"], "constraint": state["constraint"], "arrays": arrays}
    said |= {"fingerprint": weights.fingerprint, "measured": rig.learner.measured().fingerprint}
    response.write_text(json.dumps(said))
