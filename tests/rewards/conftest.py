"""Tasks that are scored."""

import pytest

from editing.data import Tasks
from editing.shapes.dataset import ShapesDataset


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks(ShapesDataset("train", 4, 0), ShapesDataset("validation", 3, 0))
