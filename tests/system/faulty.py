"""Rollout workers with faults at chosen places, and a user who changes their number."""

from pathlib import Path

from cluster import scale
from tests.learner.test_loop import Watcher


def faulty_worker(struck: Path, plan: dict[str, str], event_log: Path):
    """A rollout worker, shipped by value, that does the plan's faults once each in the whole run.

    Plan: `group id` -> how the process ends in the middle of that group; `version` -> how weights get lost; `start` ->
    only the first process can start; `step` -> `event*count` for which groups of that step and later ones wait.
    """
    from actors.fleet import RolloutActor

    class Faulty(RolloutActor):
        def __init__(self, config, tasks):
            if "start" in plan and not self.strikes("the first starts"):
                with (struck / "cannot start").open("a") as file:
                    file.write("x")
                raise RuntimeError("the driver of this GPU is too old")
            super().__init__(config, tasks=tasks)

        def strikes(self, name):
            import json
            import os

            try:
                with (struck / name).open("x") as file:
                    json.dump({"pid": os.getpid()}, file)
            except FileExistsError:
                return False
            return True

        def set_weights(self, weights):
            import os
            from dataclasses import replace

            from actors.worker import Receipt
            from editing.editors.lora import adapter_arrays
            from editing.weights import WeightProof, fingerprint

            how = plan.get(str(weights.version))
            if how is None or not self.strikes(f"weights {weights.version}"):
                return super().set_weights(weights)
            arrays, transformer = dict(weights.arrays), self._editor.transformer
            before = fingerprint(adapter_arrays(transformer))
            name = next(iter(arrays))
            try:
                if how == "dropped":
                    return Receipt(WeightProof(self._version or 0, before, weights.modules), os.getpid())
                if how == "acknowledged and dropped":
                    return Receipt(WeightProof(weights.version, weights.fingerprint, weights.modules), os.getpid())
                if how == "shape":
                    arrays[name] = arrays[name][:-1]
                if how == "bits":
                    arrays[name] = arrays[name] + 1
                return super().set_weights(replace(weights, arrays=arrays))
            finally:
                if self._version is None or fingerprint(adapter_arrays(transformer)) == before:
                    (struck / f"not taken {weights.version}").touch()

        def roll_out(self, lease):
            import os
            import time

            for step, awaited in plan.items():
                event, _, count = awaited.partition("*")
                if count and lease.step >= int(step):
                    end = time.monotonic() + 120
                    while event_log.read_text().count(f'"event": "{event}"') < int(count) and time.monotonic() < end:
                        time.sleep(0.2)
            how = plan.get(lease.group_id)
            if how is None or not self.strikes(lease.group_id):
                return super().roll_out(lease)
            calls = []

            def end(*_):
                calls.append(1)
                if len(calls) < 4:  # in the middle of the trajectory
                    return
                (struck / f"{lease.group_id} at call 4").touch()
                if how == "hang":
                    time.sleep(3600)
                if how == "exit":
                    os._exit(3)
                os.kill(os.getpid(), int(how))

            self._editor.transformer.register_forward_pre_hook(end)
            super().roll_out(lease)
            raise AssertionError("the fault did not strike")

    return Faulty


class Scaler(Watcher):
    """Asks for other numbers of workers after given steps, and writes nonsense in between."""

    def __init__(self, folder, plan):
        super().__init__()
        self.folder, self.plan = folder, plan

    def on_step(self, record):
        super().on_step(record)
        number = self.plan.get(record.step)
        if number == "nonsense":
            (self.folder / scale.FILE).write_text("many")
        elif number is not None:
            assert scale.main([str(self.folder), "--rollout-workers", str(number)]) == 0
