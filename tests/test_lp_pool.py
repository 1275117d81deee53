"""Power-average pooling: against the oracle, gradients, PyTorch over a grid, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv.autograd import Tensor

from . import oracle_pool as oracle
from .check_op import check_op
from .tolerance import assert_close

FUNCTIONS = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}
CASES = [
    ((13,), 3, 2, False),
    ((12, 67), 2, None, False),
    ((11, 14), (3, 2), (1, 3), False),
    ((11, 14), 3, 2, True),
    ((2, 2), 3, 2, True),
    ((5, 6, 7), 2, None, False),
    ((5, 6, 7), (2, 3, 3), (1, 2, 2), True),
]


def _input(size, dtype="float64"):
    return (np.random.default_rng(len(size)).random((2, 3, *size)) + 0.1).astype(dtype)


@pytest.mark.parametrize("p", [1, 2, 3, 2.5])
@pytest.mark.parametrize("size, kernel, stride, ceil_mode", CASES, ids=str)
def test_oracle(size, kernel, stride, ceil_mode, p):
    axes = oracle.windows(size, kernel, stride, ceil_mode=ceil_mode)
    x = _input(size, "float32")
    y = FUNCTIONS[len(size)](x, p, kernel, stride, ceil_mode)
    assert_close(y, oracle.lp_pool(x, axes, p, kernel), "float32", 27, 4 * np.abs(y).max())


@pytest.mark.parametrize("p", [1, 2, 3, 1.5])
def test_gradients(p):
    check_op(lambda x: F.lp_pool2d(x, p, 2, 1), _input((4, 5))[:1, :1])
    check_op(lambda x: F.lp_pool1d(x, p, 3, 2, True), _input((6,))[0])


def test_gradient_is_zero_where_the_sum_is_zero():
    x = Tensor(np.zeros((1, 1, 4, 4), np.float32), requires_grad=True)
    F.lp_pool2d(x, 2, 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 0)


@pytest.mark.parametrize("p", [1, 2, 3, 0.5, 4, -1, float("inf"), -float("inf")])
@pytest.mark.parametrize("size, kernel, stride, ceil_mode", CASES, ids=str)
def test_torch_agrees(size, kernel, stride, ceil_mode, p):
    torch = pytest.importorskip("torch")
    function, reference = FUNCTIONS[len(size)], getattr(torch.nn.functional, f"lp_pool{len(size)}d")
    for x in (_input(size), _input(size)[0]):
        if p in (1, 2, 4):
            x = x - 0.5
        ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, want = function(ours, p, kernel, stride, ceil_mode), reference(theirs, p, kernel, stride, ceil_mode)
        np.testing.assert_allclose(y.detach().numpy(), want.detach().numpy(), 1e-10, 1e-10)
        gy = np.random.default_rng(1).standard_normal(y.shape)
        y.backward(gy)
        want.backward(torch.tensor(gy))
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), 1e-9, 1e-9)


X = np.ones((2, 3, 5, 7), np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "norm_type must be a number other than 0, given 0", lambda: F.lp_pool2d(X, 0, 2)),
        (TypeError, "norm_type must be a number, given 'a'", lambda: F.lp_pool2d(X, "a", 2)),
        (ValueError, r"kernel_size must be a whole number or 2 of them, given \(2,\)", lambda: F.lp_pool2d(X, 2, (2,))),
        (ValueError, "kernel_size must be a whole number, given", lambda: F.lp_pool1d(X[0], 2, (2,))),
        (ValueError, "stride must be at least 1, given 0", lambda: F.lp_pool2d(X, 2, 2, 0)),
        (ValueError, "covers 9 in height, more than the padded input's 5", lambda: F.lp_pool2d(X, 2, 9)),
        (TypeError, "ceil_mode must be True or False", lambda: F.lp_pool2d(X, 2, 2, ceil_mode=1)),
        (TypeError, "input must be", lambda: F.lp_pool2d([1.0], 2, 2)),
        (ValueError, "must have 4 dimensions, or 3 without a batch", lambda: F.lp_pool2d(X[0, 0], 2, 2)),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
