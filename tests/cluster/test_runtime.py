"""Ray is started with authentication, and left alone where it was running before."""

import os
import signal
from pathlib import Path

import pytest

from cluster.runtime import ClusterError, actor_options, connect
from configs.schema import ClusterConfig


@pytest.mark.ray
def test_a_ray_that_runs_already_is_used_and_not_ended(ray_cluster):
    import ray

    node = ray.get_runtime_context().get_node_id()
    with connect(ClusterConfig()):
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()


@pytest.mark.ray
def test_the_local_ray_asks_for_a_token_that_only_we_can_read(ray_cluster):
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = Path.home() / ".ray" / "auth_token"
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.ray
def test_the_programs_own_handler_of_sigterm_stays(ray_cluster):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_address_without_a_cluster_is_named(monkeypatch):
    import ray

    def refuse(**arguments):
        raise ConnectionError("no server responds")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"cluster.address: expected .* at 'auto', but: no server responds"):
        connect(ClusterConfig(address="auto"))


def test_a_port_that_nobody_listens_on_is_named_at_once(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: pytest.fail("Ray was asked, which takes minutes"))
    with pytest.raises(ClusterError, match=r"at '127.0.0.1:9', but: .*Connection refused.* cluster/README.md"):
        connect(ClusterConfig(address="127.0.0.1:9"))


def test_a_run_inside_a_ray_job_joins_its_cluster(monkeypatch):
    import ray

    joined = []
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: joined.append(arguments["address"]))
    connect(ClusterConfig())
    connect(ClusterConfig(address="other"))  # what the configuration says comes first
    assert joined == ["auto", "other"]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_ray_that_is_slow_to_start_gets_a_second_chance_and_then_an_explanation(monkeypatch, failures):
    import ray

    calls = []

    def start(**arguments):
        calls.append("init")
        if calls.count("init") <= failures:
            raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    if failures == 1:
        connect(ClusterConfig())
        assert calls == ["init", "shutdown", "init"]
    else:
        with pytest.raises(
            ClusterError, match=r"did not start .* in 2 attempts: .* timed out .* --cluster.mode inline"
        ):
            connect(ClusterConfig())
        assert calls == ["init", "shutdown"] * 2


def test_a_ray_without_authentication_is_ended_again(monkeypatch):
    import ray

    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ClusterError, match="require a token, but RAY_AUTH_MODE is not set"):
        connect(ClusterConfig())
    assert ended


def test_actors_never_restart_or_repeat_by_themselves_and_wait_for_no_cpu():
    options = actor_options(ClusterConfig(threads_per_process=3), gpus=0.5)
    assert (options["max_restarts"], options["max_task_retries"], options["num_cpus"]) == (0, 0, 0)
    assert (options["num_gpus"], options["resources"]) == (0.5, {})
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_actors_ask_for_the_nodes_of_their_role():
    assert actor_options(ClusterConfig(), 1.0, {"rollout": 0.001})["resources"] == {"rollout": 0.001}
