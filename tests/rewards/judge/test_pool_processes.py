"""F6: a judge server is killed from outside in the middle of its work."""

import asyncio

from tests.judges.pools import pool_of, request, until
from tests.judges.processes import ScriptedProcess


def test_kill_9_of_one_of_two_servers_loses_no_request_and_its_restart_is_noticed(tmp_path):
    async def main():
        with (
            ScriptedProcess(tmp_path / "one", "slow:0.15") as one,
            ScriptedProcess(tmp_path / "two", "slow:0.15") as two,
        ):
            async with pool_of([one.url, two.url], concurrency=4) as pool:
                tasks = [asyncio.create_task(pool.ask(request(seed=seed))) for seed in range(48)]

                def by_one():
                    return [task.result() for task in tasks if task.done() and task.result().server == one.url]

                # Two requests in its hands, beside its probe: one may be answered before the signal reaches it.
                await until(lambda: pool.statistics().answered >= 8 and len(one.log) - 1 >= len(by_one()) + 2)
                await asyncio.to_thread(one.kill)
                reached = len(one.log)
                responses = await asyncio.gather(*tasks)

                found = pool.statistics()
                assert found.answered == len(responses) == 48 and found.unanswered == 0
                assert found.retries > 0  # it died with requests in its hands
                assert found.in_rotation == 1 and reached == len(one.log)
                assert 0 < len(by_one()) < reached - 1  # it answered some, and took others with it

                await asyncio.to_thread(one.start)  # on the same port
                await until(lambda: pool.statistics().in_rotation == 2)
                assert one.log[reached]["probe"] and one.log[reached]["images"]  # the first thing it was asked
                again = await asyncio.gather(*(pool.ask(request(seed=seed)) for seed in range(8)))
                assert {response.server for response in again} == {one.url, two.url}

    asyncio.run(main())
