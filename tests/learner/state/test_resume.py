"""What the event log says of checkpoints that there must be; whole runs are in `test_train`."""

import pytest

from learner.state.resume import last_saved


@pytest.mark.parametrize(
    ("events", "step"),
    [
        ([], None),
        ([("started", 0), ("step", 3)], None),
        ([("started", 0), ("checkpoint", 0), ("checkpoint", 25), ("step", 40)], 25),
        ([("started", 0), ("checkpoint", 25), ("resumed", 25), ("checkpoint", 50), ("finished", 50)], 50),
        # A damaged checkpoint was passed over.
        ([("started", 0), ("checkpoint", 25), ("checkpoint", 50), ("resumed", 25)], 25),
        ([("started", 0), ("checkpoint", 25), ("checkpoint", 50), ("rolled_back", 25)], 25),
        # Nothing was saved before it ended for the first time.
        ([("started", 0), ("resumed", 0)], None),
    ],
)
def test_the_newest_checkpoint_that_there_must_be(events, step):
    assert last_saved({"event": event, "step": at} for event, at in events) == step
