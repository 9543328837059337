"""Judge servers on Ray: each in an actor of its own, wherever the cluster has the GPUs.

What waits for a server is a coroutine that the owner resumes, as for the rollout workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError

from configs.errors import ConfigError
from configs.judges import ServeConfig
from configs.schema import RunConfig
from locus.common.ray_coroutines import Coroutines, ready
from locus.common.ray_errors import sentence_of
from rewards.vllm.attended import Attended
from rewards.vllm.merge import merged
from rewards.vllm.replicas import (
    Launched,
    Name,
    Replicas,
    Served,
    log_of,
    merged_folder,
    no_gpus,
    settings,
)
from rewards.vllm.server import VllmServer

LOOK_SECONDS = 2.0
STOPPING_SECONDS = 60.0
KEY = "LOCUS_JUDGE_API_KEY"


class JudgeActor:
    """One vLLM server. No method takes long: an actor whose owner is gone ends only between its methods."""

    def __init__(
        self,
        config: ServeConfig,
        model: str,
        name: str,
        folder: str,
        replica: int,
        attempt: int,
        api_key: str,
        loopback: bool,
    ) -> None:
        """`model` is the name under which `config.path` is served; the key is asked of every request."""
        host = "127.0.0.1" if loopback else ray.util.get_node_ip_address()
        run = Path(folder)

        def make() -> VllmServer:
            path = str(merged(config.path, config.lora, merged_folder(run))) if config.lora else config.path
            return VllmServer(config, path, model, log_of(run, name, replica, attempt), host, api_key)

        self._happened: SimpleQueue[Served | str] = SimpleQueue()
        self._attended = Attended(make, self._happened.put, self._happened.put)

    def look(self) -> Served | str | None:
        """What happened next: the server is up, or is gone and why; None if nothing did for a moment."""
        try:
            return self._happened.get(timeout=LOOK_SECONDS)
        except Empty:
            return None

    def stop(self) -> None:
        """Ends the server; returns when nothing of it is left."""
        self._attended.end()
        self._attended.join()


class _Actor:
    """A launched actor, see `rewards.vllm.replicas.Launched`."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.given_up = handle, False

    def end(self) -> None:
        self.given_up = True
        ray.kill(self.handle, no_restart=True)  # the guard of its server sees that and ends it


class JudgeServers:
    """The servers of one judge on Ray, kept alive. All calls come from the thread that resumes `coroutines`."""

    def __init__(
        self,
        config: RunConfig,
        name: Name,
        folder: Path,
        coroutines: Coroutines,
        notify: Callable[..., None],
        urls_changed: Callable[[list[str]], None],
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            config: of the run.
            name: which judge.
            folder: of the run, absolute; logs go to its `judges`.
            coroutines: the owner's.
            notify: hears `judge_server_started` and `judge_server_lost`.
            urls_changed: hears the addresses of the servers that are up whenever they change.
            resources: Ray's custom resources that a server's node must have.
        """
        self._config, self._name, self._folder, self._coroutines = config, name, folder, coroutines
        self._resources = dict(resources or {})
        self._replicas = Replicas(config.rewards.judge, name, self._launch, notify, urls_changed)
        self.urls, self.check = self._replicas.urls, self._replicas.check

    def start(self) -> None:
        """See `Replicas.start`.

        Raises:
            ConfigError: when a Ray of this machine alone lacks the GPUs; to a cluster they may still come.
        """
        wanted, seen = self._replicas.serve.gpus, ray.cluster_resources().get("GPU", 0.0)
        if wanted > seen and not (self._config.cluster.address or os.environ.get("RAY_ADDRESS")):
            raise ConfigError(f"rewards.judge.{self._name}.serve: {no_gpus(wanted, seen)}")
        self._replicas.start()

    @property
    def ready(self) -> bool:
        """See `Replicas.ready`."""
        return self._replicas.ready

    def close(self) -> None:
        """Ends all servers; returns when nothing of them is left."""
        actors = [launched.handle for launched in self._replicas.end() if isinstance(launched, _Actor)]
        if actors:
            ray.wait([actor.stop.remote() for actor in actors], num_returns=len(actors), timeout=STOPPING_SECONDS)
        for actor in actors:
            ray.kill(actor, no_restart=True)

    def _launch(
        self, replica: int, attempt: int, is_up: Callable[[Served], None], lost: Callable[[str], None]
    ) -> Launched:
        serve, model = settings(self._config.rewards.judge, self._name)
        loopback = sum(node["Alive"] for node in ray.nodes()) == 1
        actor = (
            ray.remote(JudgeActor)
            .options(**self._options(serve))
            .remote(serve, model, self._name, str(self._folder), replica, attempt, os.environ.get(KEY, ""), loopback)
        )
        launched = _Actor(actor)
        self._coroutines.start(_attend(launched, is_up, lost))
        return launched

    def _options(self, serve: ServeConfig) -> dict[str, Any]:
        """CPUs are not reserved, and nothing restarts by itself, as for the other actors of a run."""
        threads = str(self._config.cluster.threads_per_process)
        return {
            "num_cpus": 0,
            "num_gpus": serve.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "resources": self._resources,
            "max_concurrency": 2,  # stop while looking
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        }


async def _attend(launched: _Actor, is_up: Callable[[Served], None], lost: Callable[[str], None]) -> None:
    """Looks at an actor until its server is gone or it was given up."""
    while True:
        look = launched.handle.look.remote()
        await ready(look)
        if launched.given_up:
            return
        found, reason = _answer(look)
        if isinstance(found, Served):
            is_up(found)
        elif found or reason:
            launched.end()
            lost(found or reason)
            return


def _answer(ref: ray.ObjectRef) -> tuple[Any, str]:
    """What an actor's method returned, and an empty text; or None, and why there is no answer."""
    try:
        return ray.get(ref), ""
    except RayError as error:
        return None, sentence_of(error)
