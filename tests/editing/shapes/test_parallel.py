"""A batch shared among processes is the whole batch, whatever their number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.parallel import launch, share
from tests.editing.shapes.sharing import mean_of_shares, refuse


@given(st.integers(0, 200), st.integers(1, 100))
def test_shares_are_disjoint_complete_and_nearly_equal(total, processes):
    shares = [share(total, processes, rank) for rank in range(processes)]
    assert [index for part in shares for index in part] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_unequal_shares_have_the_gradient_of_the_whole_batch():
    launch(mean_of_shares, (), processes=3)


def test_the_sentence_of_a_process_is_that_of_the_whole():
    with pytest.raises(RecipeError, match=r"^a sentence$"):
        launch(refuse, (), processes=2)
