"""Fleets of workers that only pretend."""

import pytest


@pytest.fixture
def scene(ray_cluster, monkeypatch, tmp_path):
    """Makes a `Scene`; `broken` processes cannot start, and further settings are those of `cluster`."""
    from tests.actors.staged_fleet import Scene

    scenes = []

    def make(broken=0, **settings):
        (tmp_path / "broken").write_text(str(broken))
        scenes.append(Scene(monkeypatch, tmp_path, **settings))
        return scenes[-1]

    yield make
    for one in scenes:
        one.fleet.close()
