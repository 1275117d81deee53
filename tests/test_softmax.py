"""Softmax kernels: long and short axes, first, middle and last, against float64; thread counts; gradients."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver
from fastconv.autograd import Tensor


def reference(x, axis, log):
    x = x.astype(np.float64)
    shifted = x - x.max(axis, keepdims=True)
    total = np.exp(shifted).sum(axis, keepdims=True)
    return shifted - np.log(total) if log else np.exp(shifted) / total


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape, axis", [((3, 1000), 1), ((40, 7), 1), ((2, 300, 33), 1), ((70, 5), 0), ((0, 3), 1)])
def test_against_float64(shape, axis, log):
    rng = np.random.default_rng(0)
    x, g = ((rng.standard_normal(shape) * 5).astype(np.float32) for _ in range(2))
    t = Tensor(x, requires_grad=True)
    out = (F.log_softmax if log else F.softmax)(t, axis)
    want = reference(x, axis, log) if x.size else x
    np.testing.assert_allclose(out.detach(), want, rtol=2e-6, atol=3e-7)
    out.backward(g)
    if log:
        slope = g - np.exp(want) * g.sum(axis, keepdims=True, dtype=np.float64)
    else:
        slope = want * (g - (g * want).sum(axis, keepdims=True))
    np.testing.assert_allclose(t.grad, slope, rtol=1e-5, atol=5e-5)


@pytest.mark.skipif(driver.get_num_threads() < 2, reason="one core")
def test_same_bits_for_any_thread_count():
    x, threads = np.random.default_rng(0).standard_normal((4, 100, 900)).astype(np.float32), driver.get_num_threads()
    both = [F.softmax(x, 1), F.log_softmax(x, 2)]
    driver.set_num_threads(1)
    try:
        serial = [F.softmax(x, 1), F.log_softmax(x, 2)]
    finally:
        driver.set_num_threads(threads)
    for a, b in zip(both, serial, strict=True):
        np.testing.assert_array_equal(a, b)
