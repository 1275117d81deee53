"""Blur pooling: against the oracle, gradients, layers, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn

from . import oracle_pool as oracle
from .check_op import check_op

FUNCTIONS = {1: F.blur_pool1d, 2: F.blur_pool2d, 3: F.blur_pool3d}


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize(
    "size, kernel, stride",
    [((13,), 3, 2), ((12, 37), 3, 2), ((9, 10), (4, 5), (3, 1)), ((7, 8), 1, 2), ((5, 6, 7), 2, 2), ((8, 9), 9, 2)],
    ids=str,
)
def test_oracle(size, kernel, stride, mode):
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    want = oracle.blur_pool(x, kernel, stride, mode)
    np.testing.assert_allclose(FUNCTIONS[len(size)](x, kernel, stride, mode), want, rtol=1e-12, atol=1e-12)
    y = FUNCTIONS[len(size)](x[0].astype(np.float32), kernel, stride, mode)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, want[0], rtol=1e-5, atol=1e-5)


def test_max_blur_pool():
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 11))
    want = oracle.blur_pool(oracle.max_pool(x, oracle.windows((9, 11), 3, 1, 1))[0], 5, 2, "reflect")
    np.testing.assert_allclose(F.max_blur_pool2d(x, 3, 2, 1, 5), want, rtol=1e-12, atol=1e-12)


def test_gradients():
    x = np.random.default_rng(2).standard_normal((1, 2, 5, 6))
    check_op(lambda t: F.blur_pool2d(t, (3, 4)), x)
    check_op(lambda t: F.blur_pool1d(t, 5, 2, "replicate"), x[0])
    check_op(lambda t: F.max_blur_pool2d(t), np.random.default_rng(3).permutation(30).reshape(1, 1, 5, 6) / 3.0)


def test_layers():
    x = np.random.default_rng(3).standard_normal((1, 2, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(nn.BlurPool2d(4)(x)), F.blur_pool2d(x, 4))
    np.testing.assert_array_equal(np.asarray(nn.MaxBlurPool2d()(x)), F.max_blur_pool2d(x))
    assert repr(nn.BlurPool3d()) == "BlurPool3d(kernel_size=3, stride=2, padding_mode='reflect')"
    assert nn.BlurPool1d(2)(x[0]).shape == (2, 6, 4) and "filter_size=3" in repr(nn.MaxBlurPool2d())


X = np.ones((1, 1, 2, 7), np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "reflects 2 pixels at the border, more than 2 pixels have", lambda: F.blur_pool2d(X, 5)),
        (
            ValueError,
            "padding_mode must be one of reflect, .* given 'circular'",
            lambda: F.blur_pool2d(X, 3, 2, "circular"),
        ),
        (ValueError, "stride must be at least 1, given 0", lambda: F.blur_pool2d(X, 3, 0)),
        (ValueError, "kernel_size must be at least 1, given 0", lambda: F.blur_pool2d(X, 0)),
        (TypeError, "must be float32 or float64", lambda: F.blur_pool2d(X.astype(int))),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
