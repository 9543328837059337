"""Held-out tasks of which an editor makes no image have no measurement, and no comparison has them."""

import pytest

from actors.fleet import JobFailed
from actors.worker import RolloutWorker
from editing.task import NOT_FINITE
from editing.trajectory import MessageError
from learner.backends.evaluation_jobs import HeldOutJobs
from learner.run import run
from learner.state.event_log import read_events
from locus.common.ray_coroutines import Coroutines
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

BROKEN = 1


@pytest.fixture(params=[("trained",), ("base",), ("base", "trained")], ids="+".join)
def broken(request, monkeypatch):
    """Who makes latents that are not finite of one of the tasks."""
    whole = RolloutWorker.sample_held_out

    def sometimes(worker, indices, base):
        if BROKEN in indices and ("base" if base else "trained") in request.param:
            raise MessageError(f"task shapes-held-out-{BROKEN}: its latents {NOT_FINITE}")
        return whole(worker, indices, base)

    monkeypatch.setattr(RolloutWorker, "sample_held_out", sometimes)
    return request.param


def test_such_a_task_is_told_of_and_in_no_comparison(tiny_kontext, tmp_path, broken):
    watcher = Watcher()
    summary = run(tiny_run(tiny_kontext, tmp_path, "r", {"learner": {"steps": 1}}), observers=[watcher])
    measured = {
        event["label"]: event["tasks"]
        for event in read_events(tmp_path / "r" / "events.jsonl")
        if event["event"] == "evaluated"
    }
    assert measured == {"base": 3 - ("base" in broken), "final": 3 - ("trained" in broken)}
    base, final = (evaluation.rows for evaluation in watcher.evaluations)
    both = [index for index in range(3) if base[index] and final[index]]
    assert both == [0, 2] and summary["gain"]["mean"]["edit_psnr"] == pytest.approx(
        sum(final[i]["edit_psnr"] - base[i]["edit_psnr"] for i in both) / 2
    )
    told = [one for one in summary["notifications"] if one["metric"] == "held_out_not_finite"]
    assert len(told) == len(broken) and all(
        f"shapes-held-out-{BROKEN}: its latents {NOT_FINITE}" in one["sentence"] for one in told
    )
    ruined = "of 1 held-out tasks only the base makes an image"
    assert (ruined in summary["verdict"]["reasons"]) == (broken == ("trained",))


def test_on_ray_it_is_found_in_its_chunk_and_not_done_again():
    asked = []

    class Fleet:
        def capacity(self):
            return 1

        async def run(self, method, indices, base):
            asked.append(indices)
            if BROKEN in indices:
                raise JobFailed(f"MessageError: task t: its latents {NOT_FINITE}")
            return None, indices

    async def ask_pool(indices, images):
        return [{"edit_psnr": 1.0} for _ in images]

    jobs = HeldOutJobs(Fleet(), ask_pool, Coroutines().start, base=False, max_attempts=3)
    found = jobs.measure(range(3), shown=0, wait=lambda: None)
    assert found.metrics == [{"edit_psnr": 1.0}, {}, {"edit_psnr": 1.0}]
    assert list(found.not_finite) == [BROKEN] and found.spoiled == {} and asked == [[0, 1, 2], [0], [1], [2]]
