"""Every fault of a server: it happened (the server's log says so), and the promise held."""

import asyncio
import random
import threading
from contextlib import ExitStack

import pytest

from rewards.judge import pool as pool_module
from rewards.judge import servers as servers_module
from rewards.judge.messages import JudgesDown, JudgeUnavailable
from tests.judges.pools import pool_of, request, until
from tests.judges.scripted import ScriptedServer


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    """Delays that keep the tests short; that they grow is tested with their function."""
    monkeypatch.setattr(pool_module, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(servers_module, "FIRST_PROBE", 0.05)


async def ask_many(pool, count):
    return await asyncio.gather(*(pool.ask(request(seed=seed)) for seed in range(count)))


BREAKS = ["500", "502", "503", "529", "reset", "drop", "hang", "html", "no_choices", "401", "404", "307"]


@pytest.mark.parametrize("fault", BREAKS)
def test_a_server_that_fails_leaves_the_rotation_and_another_one_responds(fault):
    async def main():
        with ScriptedServer([fault], probes=["good", "503"]) as ill, ScriptedServer("good") as well:
            async with pool_of([ill.url, well.url], deadline=2.0) as pool:
                responses = await ask_many(pool, 12)
                kind = fault.partition(":")[0]
                assert ill.served(kind) > 0  # the fault happened
                assert {response.server for response in responses} == {well.url}
                found = pool.statistics()
                assert (found.answered, found.unanswered, found.in_rotation) == (12, 0, 1)
                assert found.retries == ill.served(kind) <= 4  # those in flight at that moment, and no later one

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["500", "reset", "hang"])
def test_it_comes_back_only_after_a_probe_has_generated(fault):
    async def main():
        with ScriptedServer([fault, "good"], probes="good,503,reset,good") as server:
            async with pool_of([server.url], deadline=2.0 if fault == "hang" else 20.0) as pool:
                response = await pool.ask(request())
                assert response.server == server.url
                order = [(asked.behaviour, asked.probe) for asked in server.log]
                assert order == [
                    ("good", True),
                    (fault, False),
                    ("503", True),
                    ("reset", True),
                    ("good", True),
                    ("good", False),
                ]
                assert pool.statistics().in_rotation == 1

    asyncio.run(main())


def test_a_server_that_comes_back_is_asked_again():
    async def main():
        with ScriptedServer("500,good") as one, ScriptedServer() as two:
            async with pool_of([one.url, two.url]) as pool:
                await ask_many(pool, 4)
                assert one.served("500") == 1
                await until(lambda: pool.statistics().in_rotation == 2)
                assert {response.server for response in await ask_many(pool, 8)} == {one.url, two.url}

    asyncio.run(main())


def test_a_slow_response_within_the_deadline_counts():
    async def main():
        with ScriptedServer("slow:0.5") as server:
            async with pool_of([server.url], deadline=5.0) as pool:
                assert (await pool.ask(request())).seconds >= 0.5
                assert pool.statistics().retries == 0

    asyncio.run(main())


def test_a_hanging_request_is_dropped_at_the_deadline_at_the_server_too():
    async def main():
        with ScriptedServer("hang,good") as server:
            async with pool_of([server.url], deadline=0.3) as pool:
                await pool.ask(request())
                await until(lambda: server.scripted.left == 1)
                assert server.served("hang") == 1

    asyncio.run(main())


def test_429_delays_a_server_for_as_long_as_it_says_and_keeps_it_in_rotation():
    async def main():
        with ScriptedServer("429:0.7,good") as server:
            async with pool_of([server.url]) as pool:
                await pool.ask(request())
                busy, good = server.requests
                assert (busy.behaviour, good.behaviour) == ("429:0.7", "good")
                assert good.time - busy.time >= 0.69
                assert pool.statistics().in_rotation == 1 and len(server.probes) == 1  # that of the start

    asyncio.run(main())


def test_while_a_server_is_delayed_the_others_respond():
    async def main():
        with ScriptedServer("429:60") as busy, ScriptedServer() as free:
            async with pool_of([busy.url, free.url], concurrency=2) as pool:
                async with asyncio.timeout(20):
                    responses = await ask_many(pool, 20)
                assert 1 <= busy.served("429") <= 2
                assert {response.server for response in responses} == {free.url}
                assert pool.statistics().in_rotation == 2

    asyncio.run(main())


def test_429_without_a_time_and_408_are_tried_again_a_little_later():
    async def main():
        with ScriptedServer("429,408,good") as server:
            async with pool_of([server.url]) as pool:
                await pool.ask(request())
                assert [asked.behaviour for asked in server.requests] == ["429", "408", "good"]

    asyncio.run(main())


def test_requests_that_get_429_together_delay_the_server_once():
    async def main():
        with ScriptedServer("429*8,good") as server:
            async with pool_of([server.url], concurrency=8) as pool:
                await ask_many(pool, 8)
                assert server.served("429") == 8
                # One delay of a quarter of a second, not one that was doubled eight times.
                assert server.requests[8].time - server.requests[7].time < 3.0

    asyncio.run(main())


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_retry_after_beyond_patience_holds_neither_request_nor_server_longer(status):
    async def main():
        with ScriptedServer(f"{status}:86400,good") as server:
            async with pool_of([server.url], patience=3.0) as pool:
                async with asyncio.timeout(20):
                    with pytest.raises(JudgeUnavailable, match=rf"1 of 4 attempts.*status {status}"):
                        await pool.ask(request())
                    assert server.served(status) == 1
                    await until(lambda: pool.statistics().in_rotation == 1)
                    await pool.ask(request())

    asyncio.run(main())


def test_attempts_are_bounded():
    async def main():
        with ScriptedServer("500") as server:
            async with pool_of([server.url], attempts=3) as pool:
                with pytest.raises(JudgeUnavailable) as caught:
                    await pool.ask(request())
                assert server.served("500") == 3
                said = str(caught.value)
                assert "editscore: no response in 3 of 3 attempts (rewards.judge.attempts)" in said
                assert f"The last attempt: {server.url}: status 500: scripted 500." in said
                found = pool.statistics()
                assert (found.unanswered, found.retries, found.answered) == (1, 2, 0)

    asyncio.run(main())


def test_a_request_is_over_after_patience_and_the_server_is_not_to_blame():
    async def main():
        with ScriptedServer("hang") as server:
            async with pool_of([server.url], patience=3.0, deadline=60.0) as pool:
                async with asyncio.timeout(20):
                    with pytest.raises(JudgeUnavailable, match="before the request's time was over"):
                        await pool.ask(request())
                assert server.served("hang") == 1 and pool.statistics().in_rotation == 1

    asyncio.run(main())


def test_a_long_queue_is_no_failure():
    async def main():
        with ScriptedServer("slow:0.3") as server:
            async with pool_of([server.url], concurrency=1, patience=2.0) as pool:
                assert len(await ask_many(pool, 10)) == 10  # the last one waited for longer than anybody's patience
                assert server.requests[-1].time - server.requests[0].time > 2.0
                assert pool.statistics().unanswered == 0

    asyncio.run(main())


@pytest.mark.parametrize("content", ["garbage", "truncated", "nan", "over", "count", "empty", "null", "text:11/10"])
def test_what_a_response_says_is_not_the_pools_business(content):
    async def main():
        with ScriptedServer([content]) as server:
            async with pool_of([server.url]) as pool:
                response = await pool.ask(request())
                assert server.served(content.partition(":")[0]) == 1
                assert response.finish_reason == ("length" if content == "truncated" else "stop")
                assert (response.text == "") == (content in ("empty", "null"))
                assert pool.statistics().in_rotation == 1

    asyncio.run(main())


def test_the_run_is_to_stop_when_too_many_requests_in_a_row_get_no_response():
    async def main():
        with ScriptedServer("500") as server:
            async with pool_of([server.url], attempts=1, max_unanswered=3) as pool:
                for _ in range(2):
                    with pytest.raises(JudgeUnavailable):
                        await pool.ask(request())
                with pytest.raises(JudgesDown, match=r"3 requests in a row .*max_unanswered is 3.*status 500"):
                    await pool.ask(request())
                assert server.served("500") == 3
                server.play("good")
                await pool.ask(request())  # a response ends the row
                server.play("500")
                with pytest.raises(JudgeUnavailable):
                    await pool.ask(request())

    asyncio.run(main())


def test_all_judges_gone_is_noticed_within_patience():
    async def main():
        with ScriptedServer() as one, ScriptedServer() as two:
            async with pool_of([one.url, two.url], patience=3.0, max_unanswered=8) as pool:
                await ask_many(pool, 4)
                one.stop()
                two.stop()
                begin = asyncio.get_running_loop().time()
                found = await asyncio.gather(
                    *(pool.ask(request(seed=seed)) for seed in range(20)), return_exceptions=True
                )
                took = asyncio.get_running_loop().time() - begin
                assert sum(type(error) is JudgeUnavailable for error in found) == 7
                assert sum(type(error) is JudgesDown for error in found) == 13
                assert "0 of 2 servers in rotation" in str(found[-1]) and "connection failed" in str(found[-1])
                assert 2.9 < took < 20
                begin = asyncio.get_running_loop().time()
                with pytest.raises(JudgesDown):  # no request waits for the same outage twice
                    await pool.ask(request())
                assert asyncio.get_running_loop().time() - begin < 2.0
                one.start()  # and when they are back, so is the pool
                await until(lambda: pool.statistics().in_rotation == 1)
                await pool.ask(request())

    asyncio.run(main())


def test_a_judge_that_gives_no_scores_stops_the_run():
    async def main():
        with ScriptedServer("garbage") as server:
            async with pool_of([server.url], max_bad_answers=0.05) as pool:
                for _ in range(10):
                    await pool.ask(request())
                    pool.note(usable=False)
                await pool.ask(request())
                with pytest.raises(JudgesDown, match=r"11 of the last 11 responses had no score"):
                    pool.note(usable=False)
                assert server.served("garbage") == pool.statistics().bad == 11

    asyncio.run(main())


def test_a_judge_that_refuses_every_request_stops_the_run():
    async def main():
        with ScriptedServer("400") as server:
            async with pool_of([server.url], max_bad_answers=0.05) as pool:
                found = [await asyncio.gather(pool.ask(request()), return_exceptions=True) for _ in range(11)]
                assert isinstance(found[-1][0], JudgesDown) and "refused the request" in str(found[-1][0])
                assert server.served("400") == pool.statistics().refused == 11

    asyncio.run(main())


def test_a_long_mixture_of_faults_loses_no_request(monkeypatch):
    """Three servers that fail a third of the time, each in its own way every time; probes fail too."""
    monkeypatch.setattr(pool_module, "LONGEST_DELAY", 0.2)
    monkeypatch.setattr(servers_module, "LONGEST_PROBE", 0.2)
    faults = ["500", "503:0.05", "429:0.05", "429", "reset", "drop", "html", "slow:0.1", "hang", "401"]
    chance, first = random.Random(20261121), iter(faults)

    one_at_a_time = threading.Lock()

    def play(asked):
        """Each fault at least once."""
        with one_at_a_time:  # servers have threads of their own
            return next(first, None) or (chance.choice(faults) if chance.random() < 0.35 else "good")

    async def main():
        with ExitStack() as stack:
            servers = [stack.enter_context(ScriptedServer(play)) for _ in range(3)]
            async with pool_of([server.url for server in servers], attempts=50, deadline=1.0, patience=60.0) as pool:
                for server in servers:
                    server.play(probes=lambda asked: chance.choice(["good", "500", "reset"]))
                responses = await ask_many(pool, 150)
                assert all(response.text.startswith("{") for response in responses)
                played = {asked.behaviour for server in servers for asked in server.requests}
                assert played == {"good", *faults}
                found = pool.statistics()
                assert (found.asked, found.answered, found.unanswered) == (150, 150, 0)
                # One attempt less is seen where its deadline passed before the server had read it.
                assert sum(len(server.requests) for server in servers) <= 150 + found.retries
                assert sum(server.served("good") + server.served("slow") for server in servers) >= 150
                assert all(server.peak <= 4 + 1 for server in servers)  # a probe is one more

    asyncio.run(main())
