import pytest
import torch

from editing.token_mask import at_least_float32, checked_regions, checked_token_mask


def test_mask_takes_the_dtype_of_its_companion():
    like = torch.zeros(1, dtype=torch.float64)
    mask = checked_token_mask(torch.tensor([True, False, True]), 3, like)
    assert mask.dtype == torch.float64 and mask.tolist() == [1.0, 0.0, 1.0]
    assert checked_token_mask(torch.tensor([0.0, 0.25, 1.0]), 3, like).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_values_outside_the_unit_range_are_refused(value):
    with pytest.raises(ValueError, match=r"edit_mask: expected values in \[0, 1\]"):
        checked_token_mask(torch.tensor([0.0, value, 1.0]), 3, torch.zeros(1))


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), (3, 1), ()])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \[3\], got"):
        checked_token_mask(torch.ones(shape), 3, torch.zeros(1))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_and_double_kept(given, wanted):
    assert at_least_float32(torch.zeros(2, dtype=given)).dtype == wanted


def test_regions_take_the_dtype_of_their_companion_and_may_be_soft_empty_and_overlapping():
    regions = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    checked = checked_regions(regions, 3, torch.zeros(1, dtype=torch.float64))
    assert checked.dtype == torch.float64 and torch.equal(checked, regions.double())
    assert checked_regions(regions > 0.5, 3, torch.zeros(1)).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_regions_outside_the_unit_range_are_refused(value):
    with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\]"):
        checked_regions(torch.tensor([[0.0, 1.0], [value, 0.0]]), 2, torch.zeros(1))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 2), (2, 3, 1), ()])
def test_regions_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"at least one row of 3 token\(s\), \[R, N\], got"):
        checked_regions(torch.ones(shape), 3, torch.zeros(1))
