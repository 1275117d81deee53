"""Maximum unpooling: against the oracle, gradients, PyTorch's own samples, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn
from fastconv import _config

from . import against_torch
from . import oracle_pool as oracle
from .check_op import check_op

FUNCTIONS = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
CASES = [
    ((13,), 3, 2, 1, (13,)),
    ((12, 14), 2, None, 0, None),
    ((11, 14), (3, 2), (1, 3), (1, 0), (11, 14)),
    ((5, 6, 7), 2, None, 0, (5, 6, 7)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size, kernel, stride, padding, out", CASES, ids=str)
def test_oracle(size, kernel, stride, padding, out, dtype, monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    x = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(dtype)
    y, at = POOLS[len(size)](x, kernel, stride, padding, return_indices=True)
    back = FUNCTIONS[len(size)](y, at, kernel, stride, padding, out)
    np.testing.assert_array_equal(back, oracle.max_unpool(y, at, size))
    assert back.dtype == dtype
    alone = FUNCTIONS[len(size)](y[0], at[0], kernel, stride, padding, (1, 3, *size) if out else None)
    np.testing.assert_array_equal(alone, back[0])


def test_gradients():
    at = np.array([[[[0, 3], [10, 13]]]])
    check_op(lambda x: F.max_unpool2d(x, at, 2), np.random.default_rng(1).standard_normal((1, 1, 2, 2)))


def test_of_equal_positions_the_last_stays():
    y = F.max_unpool2d(np.array([[[[1.0, 2], [3, 4]]]]), np.array([[[[5, 5], [5, 1]]]]), 2)
    assert y[0, 0, 1, 1] == 3 and y[0, 0, 0, 1] == 4 and y.sum() == 7


def test_layer():
    x = np.random.default_rng(2).standard_normal((1, 2, 4, 6)).astype(np.float32)
    y, at = nn.MaxPool2d(2, return_indices=True)(x)
    layer = nn.MaxUnpool2d(2)
    assert repr(layer) == "MaxUnpool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    np.testing.assert_array_equal(np.asarray(layer(y, at)), F.max_unpool2d(y, at, 2))
    assert layer(y, at, output_size=(5, 6)).shape == (1, 2, 5, 6)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("variant", ["", "grad"])
def test_torch_samples(ndim, variant):
    op, found = against_torch.samples(f"nn.functional.max_unpool{ndim}d", variant)
    assert found
    for sample in found:
        against_torch.check_sample(FUNCTIONS[ndim], op.op, sample)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_torch_refusals(ndim):
    _, found = against_torch.samples(f"nn.functional.max_unpool{ndim}d", errors=True)
    for sample in found:
        against_torch.check_refusal(FUNCTIONS[ndim], sample)


X, AT = np.ones((1, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 3), np.int64)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (TypeError, "indices must be int64, given int32", lambda: F.max_unpool2d(X, AT.astype("i4"), 2)),
        (ValueError, r"indices must have the input's shape \(1, 2, 2, 3\), given", lambda: F.max_unpool2d(X, AT[0], 2)),
        (ValueError, "indices must be from 0 to 23, .* of 4x6; given 24", lambda: F.max_unpool2d(X, AT + 24, 2)),
        (ValueError, "indices must be from 0 to 23, .*; given -1", lambda: F.max_unpool2d(X, AT - 1, 2)),
        (
            ValueError,
            "output_size must be between 2 and 6 in height, .* given 6",
            lambda: F.max_unpool2d(X, AT, 2, output_size=(6, 6)),
        ),
        (
            ValueError,
            "output_size must have 2 or 4 values, given 3",
            lambda: F.max_unpool2d(X, AT, 2, output_size=(1, 4, 6)),
        ),
        (
            TypeError,
            "output_size must be a tuple of 2 or 4 sizes, given 4",
            lambda: F.max_unpool2d(X, AT, 2, output_size=4),
        ),
        (ValueError, "at least one pixel, it would be", lambda: F.max_unpool2d(X, AT, 2, padding=5)),
        (ValueError, "stride must be at least 1, given 0", lambda: F.max_unpool3d(X, AT, 2, 0)),
        (ValueError, "only the batch may be empty", lambda: F.max_unpool2d(X[:, :0], AT[:, :0], 2)),
        (TypeError, "input must be float32 or float64, given int64", lambda: F.max_unpool2d(AT, AT, 2)),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
