"""Stochastic pooling: draws and expected values against the oracle, gradients, refusals."""

import numpy as np
import pytest

import fastconv
import fastconv.functional as F
import fastconv.nn as nn
from fastconv.autograd import Tensor, value

from . import oracle_pool as oracle
from .check_op import check_op

FUNCTIONS = {1: F.stochastic_pool1d, 2: F.stochastic_pool2d, 3: F.stochastic_pool3d}
CASES = [((13,), 3, 2, False), ((12, 37), 2, None, False), ((11, 14), (3, 2), (2, 1), True), ((5, 6, 7), 2, None, True)]


def _input(size, dtype="float64"):
    x = np.random.default_rng(len(size)).standard_normal((2, 3, *size)).astype(dtype)
    x[1, 1] = -np.abs(x[1, 1])
    return x


@pytest.mark.parametrize("size, kernel, stride, ceil_mode", CASES, ids=str)
def test_oracle(size, kernel, stride, ceil_mode):
    x, function = _input(size), FUNCTIONS[len(size)]
    axes = oracle.windows(size, kernel, stride, ceil_mode=ceil_mode)
    want = oracle.weighted_pool(np.maximum(x, 0), axes, oracle.positive_weights)
    y = function(x, kernel, stride, ceil_mode)
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    u = np.random.default_rng(7).random(y.shape)
    u.ravel()[::5] = 1  # the last positive value
    u.ravel()[::7] = 0  # the first
    drawn = function(x, kernel, stride, ceil_mode, training=True, return_indices=True, _random_samples=u)
    for ours, theirs in zip(drawn, oracle.stochastic_pool(x, axes, u), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(function(x[0], kernel, stride, ceil_mode), want[0], rtol=1e-12, atol=1e-12)


def test_gradients():
    x = np.random.default_rng(1).random((1, 2, 5, 6)) + 0.1
    x[0, 0, 0, :3] *= -1
    check_op(lambda t: F.stochastic_pool2d(t, 3, 2, True), x, second=False)
    u = np.random.default_rng(2).random((1, 2, 2, 3))

    def drawn(t):
        return F.stochastic_pool2d(t, 2, training=True, _random_samples=u.astype(np.asarray(value(t)).dtype))

    check_op(drawn, x)


def test_mean_of_draws_is_the_expected_value():
    x = np.maximum(_input((6, 8), "float32"), 0)[:1]
    fastconv.manual_seed(3)
    draws = F.stochastic_pool2d(np.repeat(x, 4000, 0), 2, training=True).mean(0)
    np.testing.assert_allclose(draws, F.stochastic_pool2d(x, 2)[0], atol=0.06)


def test_layers():
    x = np.abs(_input((6, 8), "float32"))
    layer = nn.StochasticPool2d(2)
    assert repr(layer) == "StochasticPool2d(kernel_size=2, stride=2, ceil_mode=False)"
    drawn = np.asarray(layer(x))
    assert np.isin(drawn, x).all()
    np.testing.assert_array_equal(np.asarray(layer.eval()(x)), F.stochastic_pool2d(x, 2))
    assert not np.isin(np.asarray(layer(x)), x).all()


X = np.ones((1, 1, 4, 4), np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "need training=True", lambda: F.stochastic_pool2d(X, 2, return_indices=True)),
        (TypeError, "training must be True or False, given 1", lambda: F.stochastic_pool2d(X, 2, training=1)),
        (
            ValueError,
            r"output's shape \(1, 1, 2, 2\), given \(2, 2\)",
            lambda: F.stochastic_pool2d(X, 2, training=True, _random_samples=X[0, 0, :2, :2]),
        ),
        (
            ValueError,
            "from 0 to 1, given values from 2.0 to 2.0",
            lambda: F.stochastic_pool2d(X, 2, training=True, _random_samples=2 * X[:, :, :2, :2]),
        ),
        (ValueError, "covers 5 in height", lambda: F.stochastic_pool2d(X, 5)),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_gradient_goes_to_what_was_drawn():
    x = Tensor(np.abs(_input((4, 6))), requires_grad=True)
    y, at = F.stochastic_pool2d(x, 2, training=True, return_indices=True)
    y.sum().backward()
    assert at.dtype == np.int64 and x.grad.numpy().sum() == np.prod(y.shape)
