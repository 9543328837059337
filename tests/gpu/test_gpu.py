"""All checks that need a CUDA device; the numbers are in the output of `python -m evaluation.gpu_checks`."""

import pytest
import torch

from evaluation.gpu_checks import DTYPES, run_checks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tiny_editor_on_the_gpu(tiny_kontext, dtype):
    failed = [result for result in run_checks({"tiny": str(tiny_kontext)}, [dtype], "cuda") if not result["ok"]]
    assert failed == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_embedded_base_on_the_gpu(dtype):
    failed = [result for result in run_checks({"base": "shapes"}, [dtype], "cuda") if not result["ok"]]
    assert failed == []
