"""Coroutines that wait for Ray's objects: their order, what they raise, and being woken."""

import threading
import time

import pytest

from locus.common.ray_coroutines import Coroutines, ready


@pytest.mark.ray
def test_without_objects_a_coroutine_runs_to_its_end_when_it_is_started(ray_cluster):
    coroutines, seen = Coroutines(), []

    async def at_once():
        seen.append("ran")

    coroutines.start(at_once())
    assert seen == ["ran"] and not coroutines.resume()


@pytest.mark.ray
def test_what_is_ready_goes_on_in_the_order_in_which_it_was_waited_for(ray_cluster):
    import ray

    coroutines, seen = Coroutines(), []

    async def twice(name):
        await ready(ray.put(name))
        seen.append((name, threading.current_thread()))
        await ready(ray.put(name))
        seen.append((f"{name} again", threading.current_thread()))

    for name in "abc":
        coroutines.start(twice(name))
    assert seen == []
    assert coroutines.resume() and coroutines.resume() and not coroutines.resume()
    assert [name for name, _ in seen] == ["a", "b", "c", "a again", "b again", "c again"]
    assert {thread for _, thread in seen} == {threading.current_thread()}


@pytest.mark.ray
def test_what_one_raises_is_raised_by_the_call_that_ran_it_and_the_others_go_on_later(ray_cluster):
    import ray

    coroutines, seen = Coroutines(), []

    async def one(name):
        await ready(ray.put(name))
        if name == "bad":
            raise ValueError(name)
        seen.append(name)

    for name in ("first", "bad", "last"):
        coroutines.start(one(name))
    with pytest.raises(ValueError, match="bad"):
        coroutines.resume()
    assert seen == ["first"]
    coroutines.wait(60.0)  # there is one that can go on: this does not take a minute
    assert coroutines.resume() and seen == ["first", "last"]


@pytest.mark.ray
def test_one_that_is_woken_goes_on_without_its_object(ray_cluster):
    import ray

    @ray.remote(num_cpus=0)
    class Hangs:
        def call(self):
            time.sleep(3600)

    coroutines, seen = Coroutines(), []
    actor = Hangs.remote()
    never = actor.call.remote()

    async def one():
        await ready(never)
        seen.append("woken")

    coroutines.start(one())
    coroutines.wait(0.1)
    assert not coroutines.resume()
    coroutines.wake(never)
    coroutines.wake(never)
    coroutines.wait(60.0)
    assert coroutines.resume() and seen == ["woken"] and not coroutines.resume()
    ray.kill(actor)
