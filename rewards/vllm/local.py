"""Judge servers on this machine without Ray: for runs in one process, and for commands that only score."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import get_args

from configs.judges import JudgeConfig
from rewards.vllm.attended import Attended
from rewards.vllm.merge import merged
from rewards.vllm.replicas import Launched, Name, Replicas, Served, log_of, merged_folder, no_gpus, settings
from rewards.vllm.server import VllmServer

LOOK_EVERY = 0.2  # seconds
KEY = "LOCUS_JUDGE_API_KEY"


class LocalJudgeServers:
    """The servers of one judge on this machine, kept alive; a context manager that is entered when they are up.

    What happens to them is seen by `check`, which therefore is to be called every few seconds, and is told from there:
    all calls and all callbacks are in one thread.
    """

    def __init__(
        self,
        judge: JudgeConfig,
        name: Name,
        folder: Path,
        notify: Callable[..., None],
        urls_changed: Callable[[list[str]], None],
    ) -> None:
        """As `rewards.vllm.actor.JudgeServers`, without coroutines."""
        self._judge, self._name, self._folder = judge, name, folder.absolute()
        self._happened: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._replicas = Replicas(judge, name, self._launch, notify, urls_changed)
        self.start, self.urls = self._replicas.start, self._replicas.urls

    @property
    def ready(self) -> bool:
        """See `Replicas.ready`."""
        return self._replicas.ready

    def check(self) -> None:
        """See `Replicas.check`."""
        while True:
            try:
                happened = self._happened.get_nowait()
            except Empty:
                break
            happened()
        self._replicas.check()

    def wait(self) -> None:
        """Returns when every server is up.

        Raises:
            ServersFailed: when one does not come up.
        """
        while not self.ready:
            self.check()
            time.sleep(LOOK_EVERY)

    def close(self) -> None:
        """Ends all servers; returns when nothing of them is left."""
        attended = [launched for launched in self._replicas.end() if isinstance(launched, Attended)]
        for one in attended:
            one.end()
        for one in attended:
            one.join()

    def __enter__(self) -> LocalJudgeServers:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(
        self, replica: int, attempt: int, ready: Callable[[Served], None], lost: Callable[[str], None]
    ) -> Launched:
        serve, model = settings(self._judge, self._name)

        def make() -> VllmServer:
            path = str(merged(serve.path, serve.lora, merged_folder(self._folder))) if serve.lora else serve.path
            log = log_of(self._folder, self._name, replica, attempt)
            return VllmServer(
                serve,
                path,
                model,
                log,
                api_key=os.environ.get(KEY, ""),
                devices=devices(self._judge, self._name, replica),
            )

        return Attended(
            make,
            lambda served: self._happened.put(lambda: ready(served)),
            lambda reason: self._happened.put(lambda: lost(reason)),
        )


def devices(judge: JudgeConfig, name: Name, replica: int) -> Sequence[str] | None:
    """The GPUs of one server: one judge's after the other's from the last GPU on, since the editor takes the first.

    None on the CPU.

    Raises:
        ValueError: when no GPU is seen.
    """
    judges = get_args(Name)
    serve = {one: settings(judge, one)[0] for one in judges}
    if not serve[name].gpus:
        return None
    before = sum(serve[one].gpus * serve[one].replicas for one in judges[: judges.index(name)])
    visible = _visible()
    if not visible:
        raise ValueError(no_gpus(serve[name].gpus, 0))
    first, count = math.floor(before + serve[name].gpus * replica), math.ceil(serve[name].gpus)
    return [visible[-1 - number % len(visible)] for number in range(first, first + count)]


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
