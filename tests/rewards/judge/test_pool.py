"""The judge pool over scripted servers that work: responses, routing, requests, secrets."""

import asyncio
import logging
from contextlib import ExitStack

import pytest
import structlog

from rewards.judge.messages import JudgeRefused, JudgeUnavailable
from rewards.judge.pool import JudgePool
from tests.judges.pools import KEY, PNG, pool_of, request, settings, until
from tests.judges.scripted import ScriptedServer


def test_a_response_and_its_request():
    async def main():
        with ScriptedServer() as server:
            async with pool_of([server.url]) as pool:
                response = await pool.ask(request(seed=3, top_k=20, top_p=0.9))
                asked = server.requests[0]
                assert response.text.startswith('{"reasoning"') and response.finish_reason == "stop"
                assert response.server == server.url and 0 < response.seconds < 20 and response.logprobs == {}
                assert asked.images == (PNG, PNG) and asked.urls == 0
                assert (asked.seed, asked.temperature, asked.max_tokens) == (3, 0.7, 64)
                assert asked.fields["top_k"] == 20 and asked.authorization == f"Bearer {KEY}"
                found = pool.statistics()
                assert (found.asked, found.answered, found.in_rotation) == (1, 1, 1)
                assert found.p50_seconds == found.p95_seconds == response.seconds

    asyncio.run(main())


def test_digits_come_with_their_log_probabilities():
    async def main():
        with ScriptedServer("constant") as server:
            async with pool_of([server.url]) as pool:
                digits = [(await pool.token_ids(str(digit)))[0] for digit in range(6)]
                assert digits == [15, 16, 17, 18, 19, 20]
                await pool.token_ids("5")
                assert server.scripted.tokenized == 6  # asked once per text
                response = await pool.ask(request(max_tokens=1, top_logprobs=20, allowed_token_ids=tuple(digits)))
                assert response.text == "2" and max(response.logprobs, key=response.logprobs.get) == 17
                assert len(response.logprobs) == 20

    asyncio.run(main())


def test_start_waits_for_every_server_to_respond_to_an_image():
    async def main():
        with ScriptedServer(probes="503*2,good") as late, ScriptedServer() as early:
            async with pool_of([late.url, early.url]) as pool:
                assert [probe.behaviour for probe in late.probes] == ["503", "503", "good"]
                assert all(len(probe.images) == 1 and probe.max_tokens == 1 for probe in late.probes)
                assert late.probes[0].images[0].startswith(b"\x89PNG")
                assert pool.statistics().in_rotation == 2

    asyncio.run(main())


def test_start_names_every_server_that_did_not_respond_and_why():
    async def main():
        with ScriptedServer(probes="503") as ill, ScriptedServer(probes="hang") as hung, ScriptedServer() as well:
            with ScriptedServer() as gone:
                pass
            with pytest.raises(JudgeUnavailable) as caught:
                async with pool_of([ill.url, hung.url, well.url, gone.url], patience=6.0, deadline=2.0):
                    pass
            said = str(caught.value)
            assert "3 of 4 servers did not respond to a test image" in said
            assert f"{ill.url}: status 503: scripted 503" in said
            assert f"{hung.url}: no response to a test image within 2 s" in said
            assert f"{gone.url}: the connection failed" in said
            assert well.url not in said
            assert ill.probes and hung.probes

    asyncio.run(main())


@pytest.mark.parametrize("status", [400, 401, 404])
def test_start_does_not_wait_for_a_server_that_says_it_never_will(status):
    async def main():
        with ScriptedServer(probes=str(status)) as server:
            with pytest.raises(JudgeUnavailable, match=f"1 of 1 servers .*status {status}"):
                async with asyncio.timeout(10):  # patience is 600 s
                    async with pool_of([server.url], patience=600.0):
                        pass
            assert len(server.probes) == 1

    asyncio.run(main())


def test_a_start_that_failed_leaves_no_probe_behind():
    async def main():
        with ScriptedServer(probes="503") as server:
            pool = JudgePool("editscore", [server.url], "judge", settings(patience=0.2), KEY)
            with pytest.raises(JudgeUnavailable):
                await pool.start()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            with pytest.raises(JudgeUnavailable):
                await pool.ask(request())

    asyncio.run(main())


def test_start_without_servers_and_requests_before_start_are_sentences():
    async def main():
        async with pool_of([], start=False) as pool:
            with pytest.raises(JudgeUnavailable, match=r"set rewards.judge.editscore.urls"):
                await pool.start()
        async with pool_of(["http://127.0.0.1:9/v1"], start=False) as pool:
            with pytest.raises(RuntimeError, match="start comes before"):
                await pool.ask(request())

    asyncio.run(main())


def test_requests_spread_evenly_and_never_exceed_the_concurrency_of_a_server():
    async def main():
        with ExitStack() as stack:
            servers = [stack.enter_context(ScriptedServer("slow:0.4")) for _ in range(3)]
            async with pool_of([server.url for server in servers], concurrency=3) as pool:
                await asyncio.gather(*(pool.ask(request(seed=seed)) for seed in range(27)))
                counts = [len(server.requests) for server in servers]
                assert sum(counts) == 27 and min(counts) >= 6
                assert [server.peak for server in servers] == [3, 3, 3]

    asyncio.run(main())


def test_a_slow_server_gets_less():
    async def main():
        with ScriptedServer("slow:0.4") as slow, ScriptedServer("slow:0.01") as fast:
            async with pool_of([slow.url, fast.url], concurrency=2) as pool:
                await asyncio.gather(*(pool.ask(request(seed=seed)) for seed in range(40)))
                assert len(fast.requests) > 2 * len(slow.requests) > 0

    asyncio.run(main())


def test_a_request_that_is_refused_is_not_sent_again():
    async def main():
        with ScriptedServer("400,good") as server:
            async with pool_of([server.url]) as pool:
                with pytest.raises(JudgeRefused, match=r"refused the request, status 400: scripted 400"):
                    await pool.ask(request())
                assert [asked.behaviour for asked in server.requests] == ["400"]
                found = pool.statistics()
                assert (found.refused, found.retries, found.unanswered, found.in_rotation) == (1, 0, 0, 1)
                await pool.ask(request())

    asyncio.run(main())


def test_a_server_without_tokenize_is_a_sentence():
    async def main():
        with ScriptedServer() as server:
            async with pool_of([server.url + "/v1"], start=False) as pool:  # an address that has nothing
                with pytest.raises(JudgeUnavailable, match="status 404"):
                    await pool.start()
        with ScriptedServer(tokenize=False) as server:
            async with pool_of([server.url]) as pool:
                with pytest.raises(JudgeRefused, match=r"has no /tokenize .* such as vLLM"):
                    await pool.token_ids("0")

    asyncio.run(main())


def test_servers_come_and_go():
    async def main():
        with ScriptedServer("slow:4") as one, ScriptedServer(probes="503*2,good") as two:
            async with pool_of([one.url]) as pool:
                working = asyncio.create_task(pool.ask(request()))
                await until(lambda: len(one.requests) == 1)
                pool.set_urls([one.url, two.url])
                assert pool.statistics().in_rotation == 1  # not before its probe
                await until(lambda: pool.statistics().in_rotation == 2)
                assert [probe.behaviour for probe in two.probes] == ["503", "503", "good"]
                pool.set_urls([two.url + "/"])
                assert pool.statistics().in_rotation == 1 and not working.done()
                responses = await asyncio.gather(*(pool.ask(request(seed=seed)) for seed in range(8)))
                assert {response.server for response in responses} == {two.url}
                assert (await working).server == one.url  # it could finish what it had
                assert len(one.requests) == 1 and pool.statistics().retries == 0

    asyncio.run(main())


def test_close_ends_what_waits_and_what_is_being_worked_on():
    async def main():
        with ScriptedServer("hang") as server:
            async with pool_of([server.url], concurrency=2, patience=600.0, deadline=600.0) as pool:
                tasks = [asyncio.create_task(pool.ask(request(seed=seed))) for seed in range(5)]
                await until(lambda: server.scripted.active == 2)
                await pool.close()
                async with asyncio.timeout(10):
                    found = await asyncio.gather(*tasks, return_exceptions=True)
                assert [type(error) for error in found] == [JudgeUnavailable] * 5
                assert all("closed" in str(error) for error in found)
                assert pool.statistics().unanswered == 0  # no server's fault
                await until(lambda: server.scripted.left == 2)  # the server was told

    asyncio.run(main())


def test_a_cancelled_request_frees_its_slot():
    async def main():
        with ScriptedServer("hang,good") as server:
            async with pool_of([server.url], concurrency=1, deadline=600.0) as pool:
                task = asyncio.create_task(pool.ask(request()))
                await until(lambda: server.served("hang") == 1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await pool.ask(request())
                assert server.scripted.left == 1

    asyncio.run(main())


def test_a_redirect_is_not_followed():
    async def main():
        with ScriptedServer() as elsewhere, ScriptedServer(f"redirect:{elsewhere.url}/chat/completions") as server:
            async with pool_of([server.url], attempts=1) as pool:
                with pytest.raises(JudgeUnavailable, match="status 307"):
                    await pool.ask(request())
                assert server.served("redirect") == 1
                assert elsewhere.log == []  # neither images nor key went there

    asyncio.run(main())


def test_servers_on_this_machine_are_not_reached_through_a_proxy(monkeypatch):
    with ScriptedServer() as proxy, ScriptedServer() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))

        async def main():
            async with pool_of([server.url]) as pool:
                await pool.ask(request())
            assert len(server.requests) == 1 and proxy.log == []

        asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8000/v1", "expected the address"),
        ("file:///etc/passwd", "expected the address"),
        ("", "expected"),
        ("http://user:hunter2@host/v1", "no user, password"),
        ("http://host/v1?key=hunter2", "no user, password"),
    ],
)
def test_an_address_that_is_none_is_a_sentence_without_its_secrets(url, why):
    with pytest.raises(ValueError, match=why) as caught:
        JudgePool("editscore", [url], "judge", settings(), KEY)
    assert "hunter2" not in str(caught.value)


def test_the_key_is_nowhere(caplog, capsys):
    structlog.reset_defaults()
    caplog.set_level(logging.DEBUG)
    said = []

    async def main():
        with ScriptedServer(["400", "500", "good"]) as server:
            server.scripted.quote = KEY  # as some servers do: every error names the key that it got
            async with pool_of([server.url], start=False, attempts=1, max_unanswered=1) as pool:
                said.append(repr(pool) + repr(vars(pool)))
                await pool.start()
                for _ in range(2):
                    try:
                        await pool.ask(request())
                    except Exception as error:
                        said.append(repr(error))
                        assert error.__cause__ is None or KEY not in repr(error.__cause__)
            server.play(probes="401")
            async with pool_of([server.url], start=False) as pool:
                with pytest.raises(JudgeUnavailable) as caught:
                    await pool.start()
                said.append(str(caught.value))
        assert all(asked.authorization == f"Bearer {KEY}" for asked in server.log)

    asyncio.run(main())
    out = capsys.readouterr()
    everything = "\n".join([*said, caplog.text, out.out, out.err])
    assert "your key was ***" in everything  # the server did quote it
    assert "judge server left the rotation" in everything
    assert KEY not in everything
