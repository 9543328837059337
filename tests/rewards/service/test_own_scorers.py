"""Scorers of a user's own behind the service: whatever they do, requests get values or errors and health is told."""

from configs.schema import RunConfig
from rewards.offline.command import NO_TASKS
from rewards.open import open_pool
from rewards.service.pool_thread import PoolThread
from tests.rewards.service.running import SOURCE, ScriptedPool, brightness, encoded, serving, until

SCORER = """
import os, pathlib, time
if pathlib.Path({file!r}).exists():
    raise RuntimeError("it does not start")

def mine(given):
    how = int(given.images[0, 0, 0, 0])
    if how == 0:
        os._exit(0)
    if how == 1:
        raise SystemExit(3)
    if how == 2:
        raise KeyboardInterrupt
    if how == 3:
        time.sleep(10_000)
    if how == 4:
        raise RuntimeError("no")
    if how == 5:
        given.images[:] = given.task.source[:] = 0
    return [float(how)] * len(given.images)
"""


def asking(client, how):
    image = SOURCE.copy()
    image[0, 0, 0] = how
    response = client.score(edited=[encoded(image)])
    assert response.status == 200, response.body
    return response.json["components"]["mine"][0], response.json["rewards"][0]


def test_a_scorer_that_misbehaves_is_an_error_of_its_request_and_readyz_tells_until_it_is_back(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    (tmp_path / "a_services_scorer.py").write_text(SCORER.format(file=str(broken)))
    monkeypatch.syspath_prepend(tmp_path)
    config = RunConfig(
        rewards={
            "weights": {"mine": 1.0, "background_psnr": 0.1},
            "scorers": {"mine": "a_services_scorer:mine"},
            "scorer_deadline": 5.0,
        }
    )
    with PoolThread(lambda: open_pool(config, NO_TASKS)) as pool, serving(pool, config, release=False) as (client, _):
        assert client.get("/readyz").json["scorers"] == {"mine": True}
        for how, words in ((1, "SystemExit: 3"), (2, "KeyboardInterrupt"), (4, "RuntimeError: no")):
            score, reward = asking(client, how)
            assert words in score["error"] and score["value"] is None and reward is None
            assert client.get("/readyz").status == client.get("/healthz").status == 200
        assert asking(client, 5)[0]["value"] == 5.0  # in memory of its own
        assert "rewards.scorer_deadline" in asking(client, 3)[0]["error"] and client.get("/healthz").status == 200
        until(lambda: client.get("/readyz").status == 200)
        broken.touch()
        score, reward = asking(client, 0)
        assert "exit code 0" in score["error"] and reward is None
        until(lambda: client.get("/readyz").status == 503)
        assert client.get("/readyz").json["scorers"] == {"mine": False} and client.get("/healthz").status == 200
        assert "RuntimeError: it does not start" in asking(client, 7)[0]["error"]
        broken.unlink()
        until(lambda: client.get("/readyz").status == 200)  # without another request
        assert asking(client, 7)[0]["value"] == 7.0


def test_a_pool_that_has_ended_makes_healthz_say_so():
    pool = ScriptedPool(brightness)
    with serving(pool) as (client, _):
        assert client.get("/healthz").status == 200
        pool.alive = False
        response = client.get("/healthz")
        assert response.status == 503 and "start the service again" in response.json["status"]


def test_the_thread_of_a_pool_that_ends_is_not_alive():
    config = RunConfig(rewards={"weights": {"background_psnr": 1.0}})
    with PoolThread(lambda: open_pool(config, NO_TASKS)) as pool:
        assert pool.alive
    assert not pool.alive
