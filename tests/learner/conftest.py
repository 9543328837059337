"""A learner with real groups."""

import pytest


@pytest.fixture
def rig(tiny_kontext, tmp_path):
    """Makes a `Rig` on the tiny editor, with changes of its configuration."""
    from tests.learner.rig import Rig, tiny_config

    return lambda **over: Rig(tiny_config(tiny_kontext, **over), tmp_path)
