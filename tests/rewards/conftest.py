"""Tasks that are scored, and tiny embedding models."""

import pytest


@pytest.fixture(scope="module")
def tasks():
    """Four to train on and three held out."""
    from editing.data import Tasks
    from editing.shapes.dataset import ShapesDataset

    return Tasks(ShapesDataset("train", 4, 0), ShapesDataset("validation", 3, 0))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny("clip")` is the folder of a tiny random model: clip, siglip, dinov2 or dinov3."""
    from tests.rewards.embedding.tiny_models import make_tiny

    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = make_tiny(tmp_path_factory.mktemp("tiny") / kind, kind)
        return made[kind]

    return folder
