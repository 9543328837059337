"""Tasks that are scored."""

import pytest


@pytest.fixture(scope="module")
def tasks():
    """Four to train on and three held out."""
    from editing.data import Tasks
    from editing.shapes.dataset import ShapesDataset

    return Tasks(ShapesDataset("train", 4, 0), ShapesDataset("validation", 3, 0))
