from dataclasses import replace

import numpy as np
import pytest

from editing.regions import check_regions, region_mask
from editing.task import EditTask, TaskError


@pytest.fixture
def task():
    return EditTask("t7", np.zeros((4, 5, 3), dtype=np.uint8), np.eye(4, 5, dtype=bool), "make the hat red")


def test_a_region_may_be_empty_but_not_missing(task):
    empty = np.zeros((4, 5), dtype=bool)
    known = replace(task, regions={"hat": empty, "coat": ~empty})
    assert region_mask(known, "hat") is known.regions["hat"]
    check_regions(known, ("hat", "coat"))
    with pytest.raises(TaskError, match=r"task t7: expected a region 'shoe', .* got coat, hat; add it"):
        check_regions(known, ("hat", "shoe"))
    with pytest.raises(TaskError, match="got none"):
        region_mask(task, "hat")
