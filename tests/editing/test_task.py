import pickle

import numpy as np
import pytest

from editing.task import EditTask, TaskError


def fields(**changes):
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 2] = True
    return {
        "task_id": "t",
        "source": np.zeros((5, 7, 3), dtype=np.uint8),
        "edit_mask": mask,
        "instruction": "make it red",
        **changes,
    }


def test_a_right_task_keeps_what_it_was_given():
    given = fields(regions={"object": np.zeros((5, 7), dtype=bool)}, meta={"k": 1}, caption="red")
    task = EditTask(**given)
    assert (task.height, task.width) == (5, 7)
    assert task.source is given["source"] and task.meta == {"k": 1} and task.target is None


def test_a_task_survives_pickling():
    task = pickle.loads(pickle.dumps(EditTask(**fields(target=np.ones((5, 7, 3), np.uint8)))))
    assert task.edit_mask[1, 2] and task.target.all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task_id": ""}, "task_id: expected"),
        ({"task_id": "a\nb"}, "task_id: expected"),
        ({"task_id": 3}, "task_id: expected"),
        ({"source": np.zeros((5, 7, 4), np.uint8)}, r"source: expected .* got an array uint8 \[5, 7, 4\]"),
        ({"source": np.zeros((5, 7, 3), np.float32)}, "source: expected .* float32"),
        ({"source": np.zeros((0, 7, 3), np.uint8)}, "at least one pixel"),
        ({"source": [[1]]}, "got list"),
        ({"edit_mask": np.ones((5, 6), bool)}, r"bool array \[5, 7\].*got an array bool \[5, 6\]"),
        ({"edit_mask": np.ones((5, 7), np.uint8)}, "edit_mask: expected a bool"),
        ({"edit_mask": np.zeros((5, 7), bool)}, "no editable pixel"),
        ({"instruction": "  "}, "instruction: expected"),
        ({"instruction": None}, "instruction: expected"),
        ({"caption": ""}, "caption: expected"),
        ({"target": np.zeros((7, 5, 3), np.uint8)}, r"size of the source, \[5, 7\], got \[7, 5\]"),
        ({"target": np.zeros((5, 7), np.uint8)}, "target: expected a uint8"),
        ({"regions": {"sky": np.zeros((5, 8), bool)}}, "region 'sky': expected"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_seen(changes, says):
    with pytest.raises(TaskError, match=says):
        EditTask(**fields(**changes))
