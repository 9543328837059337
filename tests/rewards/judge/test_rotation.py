"""Who gets a server, and who waits for how long."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.judge.rotation import NoServer, Rotation


@dataclass(eq=False)
class Server:
    name: str = ""
    outstanding: int = 0
    concurrency: int = 1
    held_until: float = 0.0
    turn: int = 0


def now():
    return asyncio.get_running_loop().time()


async def waiting(*awaitables):
    """Tasks that have begun to wait."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.sleep(0.01)
    return tasks


def test_requests_get_servers_in_the_order_they_came_and_repeated_ones_first():
    async def main():
        rotation, server = Rotation(60.0), Server()
        rotation.enter(server)
        await rotation.take()
        order = []

        async def ask(name, until=None):
            await rotation.take(until)
            order.append(name)

        tasks = await waiting(ask("first"), ask("second"), ask("again", now() + 60), ask("again too", now() + 60))
        for _ in tasks:
            rotation.release(server)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert order == ["again", "again too", "first", "second"]
        assert server.outstanding == 1

    asyncio.run(main())


def test_a_busy_server_is_waited_for_longer_than_patience():
    async def main():
        rotation, server = Rotation(0.02), Server()
        rotation.enter(server)
        await rotation.take()
        (task,) = await waiting(rotation.take())
        await asyncio.sleep(0.1)
        assert not task.done()
        rotation.release(server)
        assert await task is server

    asyncio.run(main())


def test_a_repeated_request_gives_up_at_its_time():
    async def main():
        rotation = Rotation(60.0)
        rotation.enter(Server())
        await rotation.take()
        with pytest.raises(NoServer):
            await rotation.take(now() + 0.02)

    asyncio.run(main())


def test_without_servers_everyone_gives_up_when_patience_is_over_until_one_is_back():
    async def main():
        rotation, server = Rotation(0.1), Server(concurrency=9)
        rotation.enter(server)
        rotation.leave(server)
        tasks = await waiting(rotation.take(), rotation.take(now() + 60))
        assert not any(task.done() for task in tasks)
        assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [NoServer, NoServer]
        begin = now()
        with pytest.raises(NoServer):
            await rotation.take()
        assert now() - begin < 0.1  # an outage is waited for once, not once per request
        rotation.enter(server)
        assert await rotation.take() is server

    asyncio.run(main())


def test_a_server_that_comes_back_in_time_takes_the_requests_that_wait():
    async def main():
        rotation, server = Rotation(60.0), Server(concurrency=2)
        rotation.enter(server)
        rotation.leave(server)
        tasks = await waiting(rotation.take(), rotation.take(), rotation.take())
        rotation.enter(server)
        done, left = await asyncio.wait(tasks, timeout=0.05)
        assert len(done) == 2 and server.outstanding == 2
        rotation.release(server)
        await asyncio.gather(*left)

    asyncio.run(main())


def test_an_outage_that_ended_before_patience_was_over_leaves_no_trace():
    async def main():
        rotation, server = Rotation(0.1), Server()
        rotation.enter(server)
        rotation.leave(server)
        rotation.enter(server)
        await rotation.take()
        (task,) = await waiting(rotation.take())
        await asyncio.sleep(0.2)
        assert not task.done()
        rotation.release(server)
        assert await task is server

    asyncio.run(main())


def test_after_an_outage_requests_wait_for_a_busy_server_again():
    async def main():
        rotation, server = Rotation(0.01), Server()
        rotation.enter(server)
        rotation.leave(server)
        await asyncio.sleep(0.05)
        rotation.enter(server)
        await rotation.take()
        (task,) = await waiting(rotation.take())
        assert not task.done()
        rotation.release(server)
        assert await task is server

    asyncio.run(main())


def test_a_request_withdrawn_from_the_queue_is_passed_over():
    async def main():
        rotation, server = Rotation(60.0), Server()
        rotation.enter(server)
        await rotation.take()
        gone, next_one = await waiting(rotation.take(), rotation.take())
        gone.cancel()
        await asyncio.sleep(0)
        rotation.release(server)
        assert await next_one is server

    asyncio.run(main())


def test_a_held_server_gets_nothing_until_its_time():
    async def main():
        rotation, server = Rotation(60.0), Server()
        rotation.enter(server)
        rotation.hold(server, 0.2)
        begin = now()
        assert await rotation.take() is server
        assert now() - begin >= 0.19 and server in rotation
        rotation.hold(server, 60.0)
        held = server.held_until
        rotation.hold(server, 0.0)  # a shorter time does not end a longer one
        assert server.held_until == held

    asyncio.run(main())


def test_a_withdrawn_request_gives_its_server_back():
    async def main():
        rotation, server = Rotation(60.0), Server()
        rotation.enter(server)
        await rotation.take()
        (task,) = await waiting(rotation.take())
        rotation.release(server)  # hands the server over; the task has not run yet
        assert server.outstanding == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.outstanding == 0
        (gone,) = await waiting(rotation.take())
        assert gone.done()

    asyncio.run(main())


def test_close_ends_all_waiting():
    async def main():
        rotation = Rotation(60.0)
        rotation.enter(Server())
        await rotation.take()
        tasks = await waiting(rotation.take(), rotation.take(now() + 60))
        rotation.close()
        assert all(isinstance(error, NoServer) for error in await asyncio.gather(*tasks, return_exceptions=True))
        with pytest.raises(NoServer):
            await rotation.take()

    asyncio.run(main())


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "again", "release", "cancel", "leave", "enter"]), st.integers(0, 3)),
        max_size=60,
    )
)
def test_no_server_is_ever_overfull_and_no_slot_is_lost(moves):
    async def main():
        servers = [Server(str(i), concurrency=1) for i in range(2)]
        rotation = Rotation(600.0)
        for server in servers:
            rotation.enter(server)
        tasks, held = [], []
        for move, which in moves:
            if move in ("take", "again"):
                tasks.append(asyncio.ensure_future(rotation.take(None if move == "take" else now() + 600)))
            elif move == "release" and held:
                rotation.release(held.pop(which % len(held)))
            elif move == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            elif move in ("leave", "enter"):
                getattr(rotation, move)(servers[which % 2])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled():
                    held.append(task.result())
            for server in servers:
                assert server.outstanding == held.count(server) <= server.concurrency
            if tasks:  # no request waits while there is room
                assert all(server.outstanding == 1 for server in servers if server in rotation)
        rotation.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
