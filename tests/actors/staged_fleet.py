"""A fleet on a stage: its workers only pretend, and the test is its owner."""

import fcntl
import os
import time
from types import SimpleNamespace

from ray.exceptions import ObjectLostError

import actors.fleet
from actors.fleet import Fleet, JobFailed
from configs.schema import RunConfig
from editing.weights import WeightProof
from locus.common.ray_coroutines import Coroutines
from locus.common.restarts import RestartPolicy


def stub_worker(folder):
    """A worker class that Ray ships by value, so that its processes import neither torch nor anything of ours.

    `folder/broken`: how many more processes cannot start.
    """

    class Stub:
        def __init__(self, config, tasks=None):
            with (folder / "broken").open("r+") as broken:
                fcntl.flock(broken, fcntl.LOCK_EX)  # workers start beside each other
                if (left := int(broken.read())) > 0:
                    broken.seek(0)
                    broken.write(f"{left - 1:2}")
                    raise RuntimeError("no such editor")
            self.version, self.pushes = None, 0

        def set_weights(self, weights):
            self.pushes += 1
            if weights.get("hangs") == os.getpid():
                time.sleep(3600)
            bad = weights.get("bad", {}).get(os.getpid(), weights.get("all_bad", 0))
            if self.pushes - (self.version is not None) <= bad:  # its first `bad` pushes of this version
                how = weights["how"]
                if how == "gone":
                    raise ObjectLostError("00", None, "")
                if how == "refused":
                    raise ValueError("the shapes differ")
                version, fingerprint = (self.version, "old") if how == "dropped" else (weights["version"], "lies")
                return SimpleNamespace(proof=WeightProof(version, fingerprint, 3), pid=os.getpid())
            self.version, self.pushes = weights["version"], 1
            return SimpleNamespace(proof=WeightProof(self.version, weights["fingerprint"], 3), pid=os.getpid())

        def work(self, name, seconds):
            before = self.version
            time.sleep(seconds)
            return (name, before, self.version, os.getpid()), f"large {name}"

        def fail(self, error):
            raise error

        def die(self, how):
            if how == "exit":
                os._exit(3)
            if how == "sleep":
                time.sleep(3600)
            os.kill(os.getpid(), how)

    return Stub


class Scene:
    """A fleet, and the loop that its owner would run."""

    def __init__(self, monkeypatch, folder, **cluster):
        import ray

        monkeypatch.setattr(actors.fleet, "RolloutActor", stub_worker(folder))
        self.coroutines, self.events, self.done, self.failed, self.spoiled = Coroutines(), [], [], [], []
        settings = RunConfig.model_validate({"cluster": {"rollout_workers": 2, "group_timeout": 60, **cluster}})
        self.ray, self.folder = ray, folder
        policy = RestartPolicy(settings.cluster.max_restarts, first_delay=0.2)
        self.fleet = Fleet(
            settings,
            {"num_cpus": 0, "max_restarts": 0},
            self.coroutines,
            lambda event, **fields: self.events.append((event, fields)),
            policy,
        )

    def limit(self, seconds):
        """Sets `cluster.group_timeout` now that the workers are up, which on a busy machine takes longer."""
        config = self.fleet._config
        cluster = config.cluster.model_copy(update={"group_timeout": seconds})
        self.fleet._config = config.model_copy(update={"cluster": cluster})

    def publish(self, version, **more):
        weights = {"version": version, "fingerprint": f"sha-{version}", **more}
        proof = WeightProof(version, weights["fingerprint"], 3)
        self.fleet.send(self.ray.put(weights))
        assert self.fleet.capacity() == 0
        self.fleet.announce(proof)

    def submit(self, name, seconds=0.0, method="work", arguments=None):
        async def job():
            try:
                self.done.append(await self.fleet.run(method, *(arguments or (name, seconds))))
            except JobFailed as error:
                self.failed.append((name, str(error)))
                self.spoiled += [name] * error.spoiled

        self.coroutines.start(job())

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"nothing came of it: {self.events} {self.done} {self.failed}"
            self.coroutines.wait(0.2)
            # All that has come comes first, or a slow test would take it for overdue; the real owner does so, too.
            self.coroutines.resume()
            self.fleet.check()

    def named(self, event):
        return [fields for name, fields in self.events if name == event]
