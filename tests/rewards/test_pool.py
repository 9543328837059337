"""Tests of rewards.pool and rewards.scorers."""

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from configs.schema import RunConfig
from editing.data import Tasks
from editing.shapes.dataset import ShapesDataset
from editing.task import EditTask
from rewards.inputs import ScoreInput
from rewards.judge.messages import JudgeRefused, JudgesDown, JudgeUnavailable
from rewards.measure import measured
from rewards.pixel import PSNR_CAP
from rewards.pool import RewardPool, at_once, open_pool
from rewards.result import Score
from rewards.scorers import SCORERS
from rewards.scorers.plugin import ScorerError
from tests.judges.scripted import ScriptedServer


@dataclass(frozen=True)
class FakeLease:
    task_index: int
    group_id: str = "000000.000.0"


@dataclass(frozen=True)
class FakeGroup:
    lease: FakeLease
    task_id: str
    images: np.ndarray
    acd: np.ndarray | None = None
    policy_version: int = 3


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks(ShapesDataset("train", 4, 0), ShapesDataset("validation", 3, 0))


def config(**weights: float) -> RunConfig:
    return RunConfig(rewards={"weights": weights})


def group_of(task: EditTask, index: int, **changes) -> FakeGroup:
    """The right answer, the untouched source, and grey."""
    images = np.stack([task.target, task.source, np.full_like(task.source, 128)])
    return replace(FakeGroup(FakeLease(index), task.task_id, images), **changes)


def test_scores_of_the_right_answer_the_source_and_grey(tasks):
    task = tasks.train[1]
    pool = RewardPool(config(edit_score=1.0, edit_psnr=0.1, background_psnr=0.1, acd=0.2), tasks)
    acd = np.array([1.5, 0.5, 0.25], dtype=np.float32)
    scores = at_once(pool.score(group_of(task, 1, acd=acd)))
    assert (scores.group_id, scores.policy_version) == ("000000.000.0", 3)
    got = {name: [s.value for s in row] for name, row in scores.components.items()}
    assert got["acd"] == [1.5, 0.5, 0.25]
    assert got["edit_score"][0] > 0.6 > 0.3 > got["edit_score"][1]
    assert got["edit_psnr"][0] == PSNR_CAP > got["edit_psnr"][1]
    # Outside the mask target and source agree but for a level of rounding.
    assert got["background_psnr"][1] == PSNR_CAP and got["background_psnr"][0] > 45
    grey = (np.full_like(task.source, 128) / 255 - task.source / 255)[~task.edit_mask]
    assert got["background_psnr"][2] == pytest.approx(-10 * np.log10(np.square(grey).mean()), rel=1e-5)
    assert scores.valid == (True, True, True) and scores.errors == ()


def test_only_weighted_components_are_computed(tasks):
    def forbidden(given):
        raise AssertionError("not asked for")

    pool = RewardPool(config(edit_psnr=1.0, acd=0.0), tasks, {**SCORERS, "acd": forbidden})
    assert list(at_once(pool.score(group_of(tasks.train[0], 0))).components) == ["edit_psnr"]


def test_the_background_is_watched_whatever_is_rewarded(tasks):
    group = group_of(tasks.train[0], 0, acd=np.ones(3, dtype=np.float32))
    unrewarded = at_once(RewardPool(config(acd=1.0), tasks).score(group))
    rewarded = at_once(RewardPool(config(background_psnr=1.0), tasks).score(group))
    assert unrewarded.diagnostics == rewarded.components and "background_psnr" not in unrewarded.components
    assert rewarded.diagnostics == {} and unrewarded.valid == rewarded.valid


@pytest.mark.parametrize("name", ["edit_score", "edit_psnr", "background_psnr", "acd"])
def test_what_a_task_lacks_is_an_error_and_never_a_number(tasks, name):
    bare = replace(tasks.train[0], target=None, meta={}, edit_mask=np.ones((64, 64), dtype=bool))
    group = group_of(tasks.train[0], 0)
    scores = at_once(RewardPool(config(**{name: 1.0}), Tasks([bare], tasks.held_out)).score(group))
    assert scores.valid == (False, False, False)
    (sentence,) = scores.errors
    assert name in sentence and bare.task_id in sentence


def test_a_scorer_that_fails_is_named_and_the_others_go_on(tasks):
    def broken(given: ScoreInput) -> tuple[Score, ...]:
        raise KeyError("judge")

    pool = RewardPool(config(edit_psnr=1.0, acd=1.0), tasks, {**SCORERS, "acd": broken})
    scores = at_once(pool.score(group_of(tasks.train[0], 0)))
    assert all(s.value is not None for s in scores.components["edit_psnr"])
    assert [s.error for s in scores.components["acd"]] == ["acd: the scorer failed with KeyError: 'judge'"] * 3
    assert not any(scores.valid)


@pytest.mark.parametrize("returned", [(), (Score(value=1.0),) * 4])
def test_a_scorer_that_returns_another_number_of_scores_is_an_error(tasks, returned):
    pool = RewardPool(config(acd=1.0), tasks, {"acd": lambda given: returned})
    scores = at_once(pool.score(group_of(tasks.train[0], 0)))
    assert len(scores.components["acd"]) == 3 and f"{len(returned)} scores for 3" in scores.errors[0]


def test_nan_from_a_measurement_is_an_error(tasks):
    pool = RewardPool(config(acd=1.0), tasks)
    acd = np.array([1.0, np.nan, np.inf], dtype=np.float32)
    assert at_once(pool.score(group_of(tasks.train[0], 0, acd=acd))).valid == (True, False, False)


def test_a_group_of_another_task_stops_the_pool(tasks):
    pool = RewardPool(config(acd=1.0), tasks)
    with pytest.raises(ValueError, match="same data"):
        at_once(pool.score(group_of(tasks.train[0], 1)))


def test_pictures_of_another_size_stop_the_pool(tasks):
    group = group_of(tasks.train[0], 0)
    pool = RewardPool(config(edit_psnr=1.0), tasks)
    with pytest.raises(ValueError, match=r"\[G, 64, 64, 3\]"):
        at_once(pool.score(replace(group, images=group.images[:, :32])))


def test_a_weight_without_a_scorer_is_refused_at_once(tasks):
    with pytest.raises(ValueError, match="acd"):
        RewardPool(config(acd=1.0), tasks, {})


def test_measure_reads_the_split_it_is_told(tasks):
    pool = RewardPool(config(edit_psnr=1.0), tasks)
    held = [tasks.held_out[i].target for i in (2, 0)]
    perfect = pool.measure([2, 0], held, "held_out")
    assert [m["edit_psnr"] for m in perfect] == [PSNR_CAP, PSNR_CAP]
    assert [m["edit_accuracy"] for m in perfect] == [1.0, 1.0]
    assert all(m["edit_score"] > 0.4 and m["background_ssim"] > 0.99 for m in perfect)
    assert pool.measure([2, 0], np.stack(held), "train")[0]["edit_psnr"] < 30
    with pytest.raises(ValueError):
        pool.measure([2], held, "held_out")


def test_measured_leaves_out_what_has_no_truth(tasks):
    task = tasks.held_out[0]
    image = task.source
    assert set(measured(task, image)) == {
        "edit_score", "edit_accuracy", "edit_psnr", "background_psnr", "background_ssim"}
    assert set(measured(replace(task, meta={}), image)) == {"edit_psnr", "background_psnr", "background_ssim"}
    bare = replace(task, meta={}, target=None)
    assert measured(bare, image) == {"background_psnr": PSNR_CAP, "background_ssim": 1.0}
    assert measured(replace(bare, edit_mask=np.ones_like(task.edit_mask)), image) == {}


def values(scores) -> list[float]:
    return [score.value for score in scores]


def waiting(**scorers) -> dict:
    """A configuration that asks for PSNR and for scorers of the user's own, and those scorers."""
    rewards = {"weights": {"edit_psnr": 1.0, **dict.fromkeys(scorers, 1.0)}, "scorers": dict.fromkeys(scorers, "a.b:c")}
    return {"config": RunConfig(rewards=rewards), "waiting": scorers}


def test_all_that_wait_are_asked_at_the_same_time(tasks):
    async def meeting(given: ScoreInput) -> list[Score]:
        await asyncio.wait_for(both.wait(), 20)  # which takes two of them
        return [Score(value=1.0)] * 3

    both = asyncio.Barrier(2)
    settings = waiting(one=meeting, two=meeting)
    pool = RewardPool(settings["config"], tasks, waiting=settings["waiting"])
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
    pool = RewardPool(settings["config"], tasks, waiting=settings["waiting"])
    assert all(all(scores.valid) for scores in asyncio.run(score_all()))


def test_what_is_computed_holds_up_no_question(tasks):
    answered, threads = threading.Event(), []

    async def judge(given: ScoreInput) -> list[Score]:
        await asyncio.sleep(0.01)  # the answer arrives while PSNR is being computed
        answered.set()
        return [Score(value=1.0)] * 3

    def slow(given: ScoreInput) -> list[Score]:
        threads.append(threading.current_thread())
        assert answered.wait(20), "the event loop was held up"
        return [Score(value=2.0)] * 3

    def broken(given: ScoreInput) -> list[Score]:
        raise KeyError("acd")

    settings = waiting(one=judge)
    settings["config"].rewards.weights["acd"] = 1.0
    pool = RewardPool(settings["config"], tasks, {"edit_psnr": slow, "acd": broken}, waiting=settings["waiting"])
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
    pool = RewardPool(settings["config"], tasks, {"edit_psnr": counted}, waiting=settings["waiting"])
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
    pool = RewardPool(settings["config"], tasks, waiting=settings["waiting"])
    asyncio.run(score())
    assert cancelled == [tasks.train[0].task_id]


def test_any_other_fault_of_a_waiting_scorer_is_an_error_that_names_it(tasks):
    async def broken(given: ScoreInput) -> list[Score]:
        raise JudgeUnavailable("nobody there")

    settings = waiting(one=broken)
    scores = asyncio.run(RewardPool(settings["config"], tasks, waiting=settings["waiting"]).score(
        group_of(tasks.train[0], 0)))
    assert scores.errors == ("one: the scorer failed with JudgeUnavailable: nobody there",)
    assert scores.invalid == {"one_failed": 3}


def test_a_pool_that_waits_says_so_outside_an_event_loop(tasks):
    async def slow(given: ScoreInput) -> list[Score]:
        await asyncio.sleep(1)
        return []

    settings = waiting(one=slow)
    pool = RewardPool(settings["config"], tasks, waiting=settings["waiting"])
    with pytest.raises(RuntimeError, match="event loop"):
        at_once(pool.score(group_of(tasks.train[0], 0)))


def test_without_judges_there_are_no_clients_no_threads_and_the_same_scores(tasks, tmp_path):
    plain = config(edit_score=1.0, background_psnr=0.1)
    before = threading.active_count()
    pool = open_pool(plain, tasks, folder=tmp_path)
    assert not pool.waits and asyncio.run(pool.statistics()) == {} and not list(tmp_path.iterdir())
    group = group_of(tasks.train[1], 1)
    assert at_once(pool.score(group)).components == asyncio.run(pool.score(group)).components
    assert threading.active_count() == before
    asyncio.run(pool.close())
    code = (
        "import sys; from configs.schema import RunConfig; from editing.data import open_tasks; import rewards.pool\n"
        "config = RunConfig(); rewards.pool.open_pool(config, open_tasks(config))\n"
        "print(sorted(set(sys.modules) & {'openai', 'httpx2', 'redis', 'fastapi', 'ray'}))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def judged(url: str, **rewards) -> RunConfig:
    return RunConfig.model_validate({
        "rewards": {"judge": {"editscore": {"urls": [url], "passes": 2}, "patience": 5.0}, **rewards}})


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
    # Three candidates, two passes of two questions each; the second time the cache knew them all.
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
        pool = open_pool(judged(one.url).model_copy(update={"redis": RunConfig(redis={"mode": "off"}).redis}), tasks,
                         urls={"editscore": [two.url]})
        assert asyncio.run(use(pool, three.url)) == 3
        asked = [[entry for entry in server.log if not entry.probe] for server in (one, two, three)]
    assert len(asked[0]) + len(asked[2]) == 12 and asked[0] and asked[2] and not asked[1]


def test_judges_that_do_not_answer_do_not_start(tasks, tmp_path):
    async def start() -> None:
        pool = open_pool(judged("http://127.0.0.1:9/v1"), tasks, folder=tmp_path)
        try:
            with pytest.raises(JudgeUnavailable, match=r"http://127\.0\.0\.1:9/v1"):
                await pool.start()
        finally:
            await pool.close()

    asyncio.run(start())


def asked_for_a_digit(url: str) -> RunConfig:
    return RunConfig.model_validate({
        "rewards": {"judge": {"qwen_vl": {"urls": [url]}, "patience": 5.0}}, "redis": {"mode": "off"}})


@pytest.mark.parametrize(("tokens", "sentence"), [
    (None, r"has no /tokenize .*needs a server that does, such as vLLM"),
    ([7], r"expected one token of its own for each digit 0 to 5, seen .*rewards\.judge\.qwen_vl"),
])
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
        assert server.probes and not server.questions


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


def test_a_scorer_that_cannot_be_loaded_is_a_sentence_and_starts_no_cache(tasks, tmp_path):
    config = judged("http://127.0.0.1:9/v1", scorers={"mine": "no.such:scorer"},
                    weights={"editscore": 1.0, "mine": 1.0})
    with pytest.raises(ScorerError, match=r"rewards\.scorers\.mine: no\.such cannot be imported"):
        open_pool(config, tasks, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_a_sentence_with_the_command(tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "rewards.judge.pool", None)
    with pytest.raises(RuntimeError, match=r"locus-editing\[judges\]"):
        open_pool(judged("http://127.0.0.1:9/v1"), tasks)
