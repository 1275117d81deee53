"""Soft pooling: against the oracle at any magnitude, gradients, thread counts, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn
from fastconv import _config, driver
from fastconv.autograd import Tensor

from . import oracle_pool as oracle
from .check_op import check_op

FUNCTIONS = {1: F.soft_pool1d, 2: F.soft_pool2d, 3: F.soft_pool3d}
CASES = [((13,), 3, 2, False), ((15, 37), 2, None, False), ((11, 14), (3, 2), (2, 1), True), ((5, 6, 7), 2, None, True)]


@pytest.mark.parametrize("scale", [1, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size, kernel, stride, ceil_mode", CASES, ids=str)
def test_oracle(size, kernel, stride, ceil_mode, dtype, scale):
    x = (np.random.default_rng(0).standard_normal((2, 3, *size)) * scale).astype(dtype)
    axes = oracle.windows(size, kernel, stride, ceil_mode=ceil_mode)
    y = FUNCTIONS[len(size)](x, kernel, stride, ceil_mode)
    want = oracle.weighted_pool(x, axes, oracle.soft_weights)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, want, rtol=0, atol=scale * (1e-5 if dtype == "float32" else 1e-13))
    np.testing.assert_array_equal(FUNCTIONS[len(size)](x[0], kernel, stride, ceil_mode), y[0])


@pytest.mark.parametrize("scale", [1, 400])
def test_gradients(scale):
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 6)) * scale
    x[0, 0, :, 3:] -= 2 * scale
    check_op(lambda t: F.soft_pool2d(t, 3, 2, True) / scale, x, second=False)
    check_op(lambda t: F.soft_pool3d(t, 2) / scale, x, second=False)


def test_a_nan_stays_in_its_windows():
    x = np.zeros((1, 1, 4, 8), np.float32)
    x[0, 0, 0, 0], x[0, 0, 2, 7] = np.nan, np.inf
    y = F.soft_pool2d(x, 2)
    assert np.isnan(y[0, 0, 0, 0]) and np.isnan(y[0, 0, 1, 3]) and np.isnan(y).sum() == 2


def test_second_derivative_is_refused():
    x = Tensor(np.ones((1, 1, 4, 4)), requires_grad=True)
    with pytest.raises(RuntimeError, match="weighted_pool"):
        F.soft_pool2d(x, 2).sum().backward(create_graph=True)


def test_same_bits_for_any_thread_count(monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    x = np.random.default_rng(2).standard_normal((3, 5, 15, 37)).astype(np.float32)
    before, results = driver.get_num_threads(), []
    try:
        for threads in (1, min(2, before)):
            driver.set_num_threads(threads)
            t = Tensor(x, requires_grad=True)
            y = F.soft_pool2d(t, 2)
            y.sum().backward()
            results.append((y.detach().numpy().tobytes(), t.grad.numpy().tobytes()))
    finally:
        driver.set_num_threads(before)
    assert results[0] == results[1]


def test_layers():
    x = np.random.default_rng(3).standard_normal((1, 2, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(nn.SoftPool2d(2)(x)), F.soft_pool2d(x, 2))
    np.testing.assert_array_equal(np.asarray(nn.SoftPool1d(3, 1)(x[0])), F.soft_pool1d(x[0], 3, 1))
    assert repr(nn.SoftPool3d(2)) == "SoftPool3d(kernel_size=2, stride=2, ceil_mode=False)"


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "kernel_size must be at least 1, given 0", lambda: F.soft_pool2d(np.ones((1, 1, 4, 4)), 0)),
        (ValueError, "covers 5 in height", lambda: F.soft_pool2d(np.ones((1, 1, 4, 4)), 5)),
        (TypeError, "input must be", lambda: F.soft_pool2d([1.0], 2)),
        (TypeError, "must be float32 or float64, given int64", lambda: F.soft_pool2d(np.ones((1, 1, 4, 4), int), 2)),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
