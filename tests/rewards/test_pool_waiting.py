"""The reward pool with scorers that wait: judges, and a user's own."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from configs.rewards import RedisConfig, RewardsConfig
from configs.schema import RunConfig
from editing.images import decode_image
from rewards.judge.messages import JudgeRefused, JudgesDown, JudgeUnavailable
from rewards.open import open_pool
from rewards.plugin.process import ScorerError
from rewards.pool import RewardPool, at_once
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.scorers.judged import REHEARSAL_SEED
from tests.judges.scripted import ScriptedServer
from tests.rewards.fake_groups import config, group_of


def values(scores) -> list[float]:
    return [score.value for score in scores]


def waiting(**scorers) -> dict:
    """Settings that ask for PSNR and for scorers of the user's own, and those scorers."""
    rewards = {"weights": {"edit_psnr": 1.0, **dict.fromkeys(scorers, 1.0)}, "scorers": dict.fromkeys(scorers, "a.b:c")}
    return {"rewards": RewardsConfig.model_validate(rewards), "waiting": scorers}


def test_all_that_wait_are_asked_at_the_same_time(tasks):
    async def meeting(given: ScoreInput) -> list[Score]:
        await asyncio.wait_for(both.wait(), 20)  # which takes two of them
        return [Score(value=1.0)] * 3

    both = asyncio.Barrier(2)
    settings = waiting(one=meeting, two=meeting)
    pool = RewardPool(settings["rewards"], tasks, waiting=settings["waiting"])
    scores = asyncio.run(pool.score(group_of(tasks.train[0], 0)))
    assert list(scores.components) == ["edit_psnr", "one", "two"]
    assert all(scores.valid) and pool.waits


def test_many_groups_wait_together(tasks):
    async def meeting(given: ScoreInput) -> list[Score]:
        await asyncio.wait_for(everybody.wait(), 20)
        return [Score(value=1.0)] * 3

    async def score_all() -> list:
        return await asyncio.gather(*(pool.score(group_of(tasks.train[i], i)) for i in range(4)))

    everybody = asyncio.Barrier(4)
    settings = waiting(one=meeting)
    pool = RewardPool(settings["rewards"], tasks, waiting=settings["waiting"])
    assert all(all(scores.valid) for scores in asyncio.run(score_all()))


def test_what_is_computed_holds_up_no_request(tasks):
    answered, threads = threading.Event(), []

    async def judge(given: ScoreInput) -> list[Score]:
        await asyncio.sleep(0.01)  # the response arrives while PSNR is being computed
        answered.set()
        return [Score(value=1.0)] * 3

    def slow(given: ScoreInput) -> list[Score]:
        threads.append(threading.current_thread())
        assert answered.wait(20), "the event loop was held up"
        return [Score(value=2.0)] * 3

    def broken(given: ScoreInput) -> list[Score]:
        raise KeyError("acd")

    settings = waiting(one=judge)
    settings["rewards"].weights["acd"] = 1.0
    pool = RewardPool(settings["rewards"], tasks, {"edit_psnr": slow, "acd": broken}, waiting=settings["waiting"])
    scores = asyncio.run(pool.score(group_of(tasks.train[0], 0)))
    assert list(scores.components) == ["edit_psnr", "one", "acd"]
    assert values(scores.components["edit_psnr"]) == [2.0] * 3 and values(scores.components["one"]) == [1.0] * 3
    assert scores.components["acd"][0].error == "acd: the scorer failed with KeyError: 'acd'"
    assert threads[0] is not threading.main_thread()


def test_groups_are_computed_one_at_a_time_where_others_wait(tasks):
    active, peak = 0, 0

    async def judge(given: ScoreInput) -> list[Score]:
        return [Score(value=1.0)] * 3

    def counted(given: ScoreInput) -> list[Score]:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        time.sleep(0.02)
        active -= 1
        return [Score(value=2.0)] * 3

    async def score_all() -> list:
        return await asyncio.gather(*(pool.score(group_of(tasks.train[i], i)) for i in range(4)))

    settings = waiting(one=judge)
    pool = RewardPool(settings["rewards"], tasks, {"edit_psnr": counted}, waiting=settings["waiting"])
    assert all(all(scores.valid) for scores in asyncio.run(score_all())) and peak == 1


def test_a_failure_limit_stops_the_run_and_gives_up_the_others(tasks):
    cancelled = []

    async def down(given: ScoreInput) -> list[Score]:
        raise JudgesDown("editscore: enough")

    async def patient(given: ScoreInput) -> list[Score]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(given.task.task_id)
            raise
        return []

    async def score() -> None:
        with pytest.raises(JudgesDown, match="enough"):
            await pool.score(group_of(tasks.train[0], 0))
        await asyncio.sleep(0)

    settings = waiting(one=patient, two=down)
    pool = RewardPool(settings["rewards"], tasks, waiting=settings["waiting"])
    asyncio.run(score())
    assert cancelled == [tasks.train[0].task_id]


def test_any_other_fault_of_a_waiting_scorer_is_an_error_that_names_it(tasks):
    async def broken(given: ScoreInput) -> list[Score]:
        raise JudgeUnavailable("no server there")

    settings = waiting(one=broken)
    scores = asyncio.run(
        RewardPool(settings["rewards"], tasks, waiting=settings["waiting"]).score(group_of(tasks.train[0], 0))
    )
    assert scores.errors == ("one: the scorer failed with JudgeUnavailable: no server there",)
    assert scores.invalid == {"one_failed": 3}


def test_a_pool_that_waits_says_so_outside_an_event_loop(tasks):
    async def slow(given: ScoreInput) -> list[Score]:
        await asyncio.sleep(1)
        return []

    settings = waiting(one=slow)
    pool = RewardPool(settings["rewards"], tasks, waiting=settings["waiting"])
    with pytest.raises(RuntimeError, match="event loop"):
        at_once(pool.score(group_of(tasks.train[0], 0)))


def test_without_judges_there_are_no_clients_no_threads_and_the_same_scores(tasks, tmp_path):
    plain = config(edit_score=1.0, background_psnr=0.1)
    before = threading.active_count()
    pool = open_pool(plain, tasks, folder=tmp_path)
    assert not pool.waits and asyncio.run(pool.statistics()) == {} and not list(tmp_path.iterdir())
    group = group_of(tasks.train[1], 1)
    assert at_once(pool.score(group)).components == asyncio.run(pool.score(group)).components
    assert threading.active_count() <= before  # one of another test may end in between
    asyncio.run(pool.close())
    code = (
        "import sys; from configs.schema import RunConfig; from editing.data import open_tasks; import rewards.open\n"
        "config = RunConfig(); rewards.open.open_pool(config, open_tasks(config))\n"
        "print(sorted(set(sys.modules) & {'openai', 'httpx2', 'redis', 'fastapi', 'ray'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def judged(url: str, **rewards) -> RunConfig:
    return RunConfig.model_validate(
        {
            "redis": {"timeout": 10.0},
            "rewards": {"judge": {"editscore": {"urls": [url], "passes": 2}, "patience": 5.0}, **rewards},
        }
    )


def test_a_configured_judge_scores_and_its_numbers_are_told(tasks, tmp_path):
    async def use(pool: RewardPool) -> tuple:
        try:
            assert await pool.start() == {"editscore": 1}
            first = await pool.score(group_of(tasks.train[0], 0))
            again = await pool.score_task(tasks.train[0], group_of(tasks.train[0], 0).images)
            return first.components, again, await pool.statistics()
        finally:
            await pool.close()

    with ScriptedServer("good") as server:
        first, again, numbers = asyncio.run(use(open_pool(judged(server.url), tasks, folder=tmp_path)))
    assert list(first) == ["editscore", "background_psnr"] and first == again
    assert all(0 < score.value <= 1 and len(score.passes) == 2 for score in first["editscore"])
    # Three candidates, two passes of two requests each; the second time the cache had them all.
    assert numbers["editscore_asked"] == numbers["editscore_answered"] == 12 and numbers["editscore_error_rate"] == 0
    assert (numbers["cache_hits"], numbers["cache_misses"]) == (6, 6)
    assert 0 < numbers["editscore_p50_seconds"] <= numbers["editscore_p95_seconds"]
    assert len([asked for asked in server.log if not asked.probe]) == 12


def test_servers_come_from_elsewhere_too_and_may_change(tasks):
    async def use(pool: RewardPool, new: str) -> int:
        try:
            assert await pool.start() == {"editscore": 2}
            await pool.set_urls("editscore", [new])
            for _ in range(500):
                if (await pool.statistics())["editscore_in_rotation"] == 2:
                    break
                await asyncio.sleep(0.02)
            scores = await pool.score(group_of(tasks.train[0], 0))
            return sum(scores.valid)
        finally:
            await pool.close()

    with ScriptedServer() as one, ScriptedServer() as two, ScriptedServer() as three:
        pool = open_pool(
            judged(one.url).model_copy(update={"redis": RunConfig(redis={"mode": "off"}).redis}),
            tasks,
            urls={"editscore": [two.url]},
        )
        assert asyncio.run(use(pool, three.url)) == 3
        asked = [[entry for entry in server.log if not entry.probe] for server in (one, two, three)]
    assert len(asked[0]) + len(asked[2]) == 12 and asked[0] and asked[2] and not asked[1]


def test_judges_that_do_not_respond_do_not_start(tasks, tmp_path):
    async def start() -> None:
        pool = open_pool(judged("http://127.0.0.1:9/v1"), tasks, folder=tmp_path)
        try:
            with pytest.raises(JudgeUnavailable, match=r"http://127\.0\.0\.1:9/v1"):
                await pool.start()
        finally:
            await pool.close()

    asyncio.run(start())


def asked_for_a_digit(url: str) -> RunConfig:
    return RunConfig.model_validate(
        {"rewards": {"judge": {"qwen_vl": {"urls": [url]}, "patience": 5.0}}, "redis": {"mode": "off"}}
    )


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (None, r"has no /tokenize .*needs a server that does, such as vLLM"),
        ([7], r"expected one token of its own for each digit 0 to 5, got .*rewards\.judge\.qwen_vl"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_stops_the_start(tasks, monkeypatch, tokens, sentence):
    async def start() -> None:
        pool = open_pool(asked_for_a_digit(server.url), tasks)
        try:
            with pytest.raises(JudgeRefused, match=sentence):
                await pool.start()
        finally:
            await pool.close()

    if tokens is not None:
        monkeypatch.setattr("tests.judges.scripted.tokens_of", lambda text: tokens)
    with ScriptedServer(tokenize=tokens is not None) as server:
        asyncio.run(start())
        assert server.probes and not server.requests


def test_the_digits_are_known_when_the_first_group_comes(tasks):
    async def use() -> tuple[int, int]:
        pool = open_pool(asked_for_a_digit(server.url), tasks)
        try:
            await pool.start()
            before = server.scripted.tokenized
            scores = await pool.score(group_of(tasks.train[0], 0))
            assert all(scores.valid)
            return before, server.scripted.tokenized
        finally:
            await pool.close()

    with ScriptedServer() as server:
        assert asyncio.run(use()) == (6, 6)


@pytest.mark.parametrize("name", ["editscore", "qwen_vl"])
def test_a_judge_too_small_for_the_runs_images_is_noticed_at_the_start(tasks, name):
    """It responds to a one-token request about a small image and refuses one of the run's size, as vLLM does."""

    async def start() -> str:
        asking = judged(server.url) if name == "editscore" else asked_for_a_digit(server.url)
        pool = open_pool(asking.model_copy(update={"redis": RedisConfig(mode="off")}), tasks)
        try:
            with pytest.raises(JudgeRefused) as caught:
                await pool.start()
            return str(caught.value)
        finally:
            await pool.close()

    with ScriptedServer(probes=lambda asked: "400" if asked.seed == REHEARSAL_SEED else "good") as server:
        server.scripted.quote = "the prompt is longer than the maximum model length of 8192"
        said = asyncio.run(start())
        (asked,) = [asked for asked in server.log if asked.seed == REHEARSAL_SEED]
    task = tasks.train[0]
    assert [decode_image(png, "png").shape for png in asked.images] == [task.source.shape] * 2
    assert task.instruction in asked.text and asked.max_tokens == (512 if name == "editscore" else 1)
    assert ("response_format" in asked.fields) == (name == "editscore")
    assert f"two images of {task.width} × {task.height} pixels" in said and "8192" in said
    assert "--max-model-len" in said and "data.resolution" in said and server.url in said


@pytest.mark.parametrize("behaviour", ["500", "garbage", "hang"])
def test_what_else_a_rehearsal_comes_to_does_not_keep_a_run_from_starting(tasks, behaviour):
    async def start() -> int:
        asking = judged(server.url).model_dump(mode="json")
        asking["rewards"]["judge"]["deadline"], asking["redis"] = 1.0, {"mode": "off"}
        pool = open_pool(RunConfig.model_validate(asking), tasks)
        try:
            await pool.start()
            return sum((await pool.score(group_of(tasks.train[0], 0))).valid)
        finally:
            await pool.close()

    with ScriptedServer(probes=lambda asked: behaviour if asked.seed == REHEARSAL_SEED else "good") as server:
        assert asyncio.run(start()) == 3
        assert behaviour in [asked.behaviour for asked in server.log]


def test_a_scorer_that_cannot_be_loaded_is_a_sentence_and_starts_no_cache(tasks, tmp_path):
    config = judged(
        "http://127.0.0.1:9/v1", scorers={"mine": "no.such:scorer"}, weights={"editscore": 1.0, "mine": 1.0}
    )
    with pytest.raises(ScorerError, match=r"rewards\.scorers\.mine: no\.such cannot be imported"):
        open_pool(config, tasks, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_a_sentence_with_the_command(tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "rewards.judge.pool", None)
    with pytest.raises(RuntimeError, match=r"pip install -e '\.\[judges\]'"):
        open_pool(judged("http://127.0.0.1:9/v1"), tasks)
