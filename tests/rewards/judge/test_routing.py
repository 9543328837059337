"""The choice of a server: the least busy one, never a full or held one."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from rewards.judge.routing import choose


@dataclass(eq=False)
class Server:
    outstanding: int = 0
    concurrency: int = 4
    held_until: float = 0.0
    turn: int = 0


servers = st.lists(st.builds(Server, st.integers(0, 6), st.integers(1, 6), st.floats(0, 20), st.integers(0, 9)))


@given(servers, st.floats(0, 20))
def test_the_chosen_server_has_room_is_not_held_and_none_such_is_less_busy(pool, now):
    chosen = choose(pool, now)
    able = [server for server in pool if server.outstanding < server.concurrency and server.held_until <= now]
    if chosen is None:
        assert able == []
    else:
        assert chosen in able
        assert all(chosen.outstanding <= server.outstanding for server in able)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 40))
def test_servers_fill_evenly(count, concurrency, requests):
    pool = [Server(concurrency=concurrency) for _ in range(count)]
    for turn in range(1, requests + 1):
        chosen = choose(pool, 0.0)
        if chosen is None:
            assert turn > count * concurrency
            break
        chosen.outstanding, chosen.turn = chosen.outstanding + 1, turn
    busy = [server.outstanding for server in pool]
    assert max(busy) - min(busy) <= 1
    assert sum(busy) == min(requests, count * concurrency)


def test_equally_busy_servers_take_turns():
    pool = [Server() for _ in range(3)]
    chosen = []
    for turn in range(1, 7):
        server = choose(pool, 0.0)
        server.turn = turn  # answered at once: it is as idle as the others again
        chosen.append(pool.index(server))
    assert chosen == [0, 1, 2, 0, 1, 2]
