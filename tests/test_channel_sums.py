"""The gradient of a bias: sums of channels."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver
from fastconv.autograd import Tensor


def bias_gradient(shape, gy, threads):
    """The gradient of a pointwise convolution's bias, which is the sum of `gy` over images and pixels."""
    before = driver.get_num_threads()
    driver.set_num_threads(threads)
    try:
        bias = Tensor(np.zeros(shape[1], gy.dtype), requires_grad=True)
        y = F.conv2d(np.zeros(shape, gy.dtype), np.zeros((shape[1], shape[1], 1, 1), gy.dtype), bias)
        y.backward(gy)
        return bias.grad.numpy()
    finally:
        driver.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 9), (40, 33, 24, 24)])
def test_sums(shape, dtype):
    gy = (np.random.default_rng(0).standard_normal(shape) + 10).astype(dtype)
    sums = bias_gradient(shape, gy, 1)
    assert sums.dtype == gy.dtype
    np.testing.assert_allclose(sums, gy.astype(np.float64).sum((0, 2, 3)), rtol=1e-7 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(sums, bias_gradient(shape, gy, driver.get_num_threads()))
    np.testing.assert_array_equal(sums, bias_gradient(shape, gy.copy(order="F"), 1))
